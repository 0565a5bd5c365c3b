"""Each hardening property of the container, the cluster and the service; and the tools that judge such files, where they are."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from shipped import NAME, Home

LABEL = "tiny-model-1"
IMAGE = f"{LABEL}:v3"
GRACE = 22  # 7 s of serve.drain and 15 s


def instructions(home: Home) -> list[list[str]]:
    """The Dockerfile's instructions, their continued lines joined, as [name, rest]."""
    text = re.sub(r"^#.*\n", "", home.text("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def final(home: Home) -> list[list[str]]:
    """Those of the image that runs."""
    found = instructions(home)
    return found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]


def one(lines: Sequence[Sequence[str]], name: str) -> str:
    (rest,) = [rest for instruction, rest in lines if instruction == name]
    return rest


def test_the_base_is_named_by_version_and_both_stages_have_it(home: Home):
    lines = instructions(home)
    assert lines[0] == ["ARG", f"BASE=python:{sys.version_info.major}.{sys.version_info.minor}-slim-trixie"]
    assert [rest for name, rest in lines if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert "@sha256:" in home.text("Dockerfile")


def test_the_image_runs_as_a_user_without_rights_and_installs_nothing(home: Home):
    lines = final(home)
    assert one(lines, "USER") == "10001:10001"
    assert [rest for name, rest in lines if name == "COPY"] == ["--from=build /opt/treadle /opt/treadle", "project /srv/treadle"]
    assert "--uid 10001 --gid 10001" in one(lines, "RUN")
    assert "/usr/sbin/nologin" in one(lines, "RUN")
    for word in ("pip", "apt", "gcc", "curl", "ADD"):
        assert not re.search(rf"\b{word}\b", " ".join(" ".join(line) for line in lines)), word


def test_packages_are_pinned_wheels_and_torch_comes_from_its_own_index(home: Home):
    (install,) = [rest for name, rest in instructions(home)[: -len(final(home))] if name == "RUN"]
    for command in install.split("&&")[1:4]:
        assert "--no-deps" in command
    torch = dict(line.split("==") for line in home.text("requirements.txt").splitlines()[1:])["torch"]
    assert f'--only-binary :all: --index-url "${{TORCH_INDEX}}" torch=={torch}' in install
    assert "--only-binary :all: --requirement requirements.txt" in install
    assert install.rstrip().endswith("check")
    wheel = re.search(r"--no-index \./(\S+)", install)
    assert wheel
    assert (home.folder / wheel[1]).exists()


def test_the_image_stops_is_watched_and_says_what_it_is(home: Home):
    lines = final(home)
    assert one(lines, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(one(lines, "ENTRYPOINT")) == ["treadle"]
    assert json.loads(one(lines, "CMD")) == ["serve", "--host", "0.0.0.0", "--seed", "seed.json"]
    assert "'127.0.0.1', 8000" in one(lines, "HEALTHCHECK")
    assert json.loads(one(lines, "HEALTHCHECK").partition("CMD ")[2])[:2] == ["python", "-c"]
    assert json.loads(one(lines, "VOLUME")) == ["/state"]
    for words in ("TREADLE_STATE=/state", "PYTHONDONTWRITEBYTECODE=1"):
        assert words in one(lines, "ENV").split()
    package = home.ledger.live()["package"]
    for words in (f'title="{NAME}"', f'treadle.package="{package}"', 'treadle.version="3"', 'treadle.data.licences="PSF-2.0"'):
        assert words in one(lines, "LABEL")


def test_only_what_the_image_holds_is_sent_to_the_builder(home: Home):
    lines = [line for line in home.text(".dockerignore").splitlines() if not line.startswith("#")]
    (wheel,) = home.folder.glob("*.whl")
    assert lines == ["*", "!project", "!requirements.txt", f"!{wheel.name}"]


def test_compose_locks_the_container(home: Home):
    (document,) = home.documents("compose.yaml")
    (service,) = document["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["tmpfs"][0].startswith("/tmp:")
    assert service["volumes"] == ["state:/state"]
    assert list(document["volumes"]) == ["state"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["stop_grace_period"] == f"{GRACE}s"
    limits = service["deploy"]["resources"]["limits"]
    assert limits == {"cpus": "2", "memory": f"{home.shipped.needs.most_memory}M", "pids": 256}
    assert service["image"] == IMAGE
    assert "privileged" not in service


def kinds(home: Home) -> dict[str, dict]:
    return {document["kind"]: document for document in home.documents("kubernetes.yaml")}


def test_the_cluster_gets_a_claim_a_deployment_a_service_and_a_policy(home: Home):
    found = kinds(home)
    assert list(found) == ["PersistentVolumeClaim", "Deployment", "Service", "NetworkPolicy"]
    pod = found["Deployment"]["spec"]["template"]
    assert found["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    for selector in (found["Deployment"]["spec"]["selector"]["matchLabels"], found["Service"]["spec"]["selector"],
                     found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= pod["metadata"]["labels"].items()
    claim = found["PersistentVolumeClaim"]["metadata"]["name"]
    assert pod["spec"]["volumes"][0] == {"name": "state", "persistentVolumeClaim": {"claimName": claim}}
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == pod["spec"]["containers"][0]["ports"][0]["name"]
    for document in found.values():
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_the_pod_is_locked(home: Home):
    pod = kinds(home)["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] == GRACE
    rights = pod["securityContext"]
    assert (rights["runAsNonRoot"], rights["runAsUser"], rights["fsGroup"]) == (True, 10001, 10001)
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
        assert container["image"] == IMAGE
        assert "env" not in container
    (server,) = pod["containers"]
    needs = home.shipped.needs
    assert server["resources"]["requests"]["memory"] == f"{needs.memory}Mi"
    assert server["resources"]["limits"]["memory"] == f"{needs.most_memory}Mi"
    probes = {name: server[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}


def test_the_pod_asks_no_one_and_only_its_neighbours_ask_it(home: Home):
    policy = kinds(home)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert policy["ingress"] == [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8000}]}]


class _Many(dict):
    """systemd's keys may be given more than once."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and isinstance(self.get(key), list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def unit(home: Home) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, dict_type=_Many)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(home.text("treadle.service"))
    return dict(parser["Service"])


def test_the_service_is_locked(home: Home):
    found = unit(home)
    needs = home.shipped.needs
    wanted = {
        "User": "treadle", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "PrivateDevices": "yes", "CapabilityBoundingSet": "", "StateDirectory": "treadle", "StateDirectoryMode": "0700",
        "Restart": "on-failure", "KillSignal": "SIGTERM", "TimeoutStopSec": str(GRACE), "MemoryMax": f"{needs.most_memory}M",
        "SystemCallFilter": "@system-service\n~@privileged", "IPAddressDeny": "any", "IPAddressAllow": "localhost",
        "RestrictNamespaces": "yes", "ProtectKernelTunables": "yes", "RestrictSUIDSGID": "yes",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert found["ExecStart"].endswith("treadle serve --host 127.0.0.1 --seed seed.json")
    assert "TREADLE_STATE=/var/lib/treadle" in found["Environment"]


def tool(name: str) -> str:
    """The path of ``name``, on the PATH or beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    return found or pytest.skip(f"needs {name}")


def test_systemd_takes_the_service_and_finds_it_little_exposed(home: Home, tmp_path: Path):
    analyze = tool("systemd-analyze")
    here = home.text("treadle.service").replace("/opt/treadle/current/venv/bin/treadle", shutil.which("true") or "/bin/true")
    file = tmp_path / "treadle.service"
    file.write_text(here)
    done = subprocess.run([analyze, "verify", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    words = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(file)]  # of 100, the fewer the better
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd-analyze 250 or newer")
    assert done.returncode == 0, done.stdout[-500:]


def test_hadolint_finds_nothing_in_the_dockerfile(home: Home):
    done = subprocess.run([tool("hadolint"), str(home.folder / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_clusters_objects_are_valid(home: Home):
    words = [tool("kubernetes-validate"), "--strict", "--no-warn", str(home.folder / "kubernetes.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
