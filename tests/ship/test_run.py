"""The folder as the container runs it: the same words, no rights, all read-only but the state."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from shipped import NAME, Home
from typer.testing import CliRunner

from treadle.cli import app
from treadle.core.compiler import compiler
from treadle.store.ledger import Ledger

SECONDS = 60.0


class Place:
    """A copy of the folder without write bits, and a state folder, elsewhere than home; as in the image there is no compiler."""

    def __init__(self, home: Home, root: Path) -> None:
        self.folder, self.state = root / "folder", root / "state"
        shutil.copytree(home.folder, self.folder)
        self.state.mkdir()
        for path in (*self.folder.rglob("*"), self.folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (kernels,) = re.findall(r"TREADLE_KERNELS=(\S+)", (self.folder / "Dockerfile").read_text())
        kernels = kernels.replace("/srv/treadle", str(self.folder / "project"))
        self.environment = {
            "CC": "/nowhere/cc", "TREADLE_KERNELS": kernels,
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if key in os.environ},
            "HOME": str(self.state), "TREADLE_STATE": str(self.state), "PYTHONDONTWRITEBYTECODE": "1",
        }

    def words(self, *words: str) -> list[str]:
        """``treadle WORDS``. Root gives up what makes it root first: the kernel then asks it for rights as it asks anyone."""
        drop: list[str] = []
        if os.getuid() == 0:
            drop = [shutil.which("setpriv") or pytest.skip("needs setpriv"), "--no-new-privs", "--bounding-set=-all"]
        return [*drop, sys.executable, "-m", "treadle", *words]

    def treadle(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*words), cwd=self.folder / "project", env=self.environment, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )
        assert "Traceback" not in done.stderr
        return done

    @contextmanager
    def serving(self) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """The container's own words, but for the port."""
        (line,) = [line for line in (self.folder / "Dockerfile").read_text().splitlines() if line.startswith("CMD ")]
        words = self.words(*json.loads(line.removeprefix("CMD ")), "--port", "0", "--json")
        where = self.folder / "project"
        with subprocess.Popen(words, cwd=where, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                text = ""
                while "}" not in text:
                    text += process.stdout.readline() or pytest.fail("the server ended before it was ready")
                yield process, json.loads(text)["url"].replace("0.0.0.0", "127.0.0.1")
            finally:
                process.kill()


@pytest.fixture
def place(home: Home, tmp_path: Path) -> Iterator[Place]:
    place = Place(home, tmp_path)
    yield place
    for path in (place.folder, *place.folder.rglob("*")):
        path.chmod(0o755)


def test_it_answers_as_the_live_version_and_stops_in_order(place: Place, home: Home):
    writing = [*place.words()[:-2], "-c", "open('x', 'w')"]
    done = subprocess.run(writing, cwd=place.folder / "project", capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr
    refused = place.treadle("serve", "--host", "0.0.0.0", "--seed", "seed.json")
    assert (refused.returncode, "treadle key add" in refused.stderr) == (2, True)
    key = place.treadle("key", "add", "alice").stdout.strip()
    package = home.ledger.live()["package"]
    with place.serving() as (process, url), httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get("/readyz").json() == {"status": "ready", "version": 3, "failed": None, "stalled": None}
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["id"], model["version"], model["package"]) == (NAME, 3, package)
        answer = client.post("/v1/completions", json={"model": NAME, "prompt": "def ", "max_tokens": 8, "temperature": 0}).json()
        assert (answer["version"], answer["usage"]["completion_tokens"]) == (3, 8)
        assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0
    assert {path.name for path in place.state.iterdir()} == {"ledger.db"}
    filed = Ledger(place.state).answer(answer["id"])
    assert (filed["version"], filed["package"]) == (3, package)


@pytest.mark.skipif(not compiler() or platform.machine() != "x86_64", reason="needs a C compiler on x86-64")
def test_kernels_come_with_the_folder(place: Place):
    use = "from treadle.core.native import kernels; print(kernels() is not None)"
    done = subprocess.run([sys.executable, "-c", use], env=place.environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert "no C compiler: the kernels that were built for x86-64-v" in done.stderr


def test_a_restart_keeps_keys_and_files_the_version_once(place: Place):
    key = place.treadle("key", "add", "alice").stdout.strip()
    for _ in range(2):
        with place.serving() as (process, url):
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=SECONDS) == 0
    assert [row["version"] for row in Ledger(place.state).deployments()] == [3]


def test_a_state_that_is_not_named_is_the_users_error(place: Place):
    del place.environment["TREADLE_STATE"]
    done = place.treadle("serve", "--seed", "seed.json")
    assert (done.returncode, "TREADLE_STATE" in done.stderr, "cure" in done.stderr) == (2, True, True)


def test_the_pod_waits_for_the_first_key_and_says_how_to_make_it(place: Place, home: Home):
    pod = home.documents("kubernetes.yaml")[1]["spec"]["template"]["spec"]
    (first,) = pod["initContainers"]
    bin = place.state / "bin"
    bin.mkdir()
    (bin / "treadle").write_text(f'#!/bin/sh\nexec {sys.executable} -m treadle "$@"\n')
    (bin / "treadle").chmod(0o755)
    environment = place.environment | {"PATH": f"{bin}:{place.environment['PATH']}"}
    words = [sys.executable, *first["command"][1:], *first["args"]]
    with subprocess.Popen(words, cwd=place.folder / "project", env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert "kubectl exec deploy/tiny-model-1 -c first-key -- treadle key add NAME" in waiting.stdout.readline()
        assert waiting.poll() is None
        assert place.treadle("key", "add", "alice").returncode == 0
        end = time.monotonic() + SECONDS
        while waiting.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        waiting.kill()
    assert waiting.returncode == 0


def test_the_word_says_what_it_wrote_and_what_to_do_next(home: Home, tmp_path: Path):
    done = CliRunner().invoke(app, ["package", str(tmp_path / "out"), "-f", str(home.project.folder)])
    assert done.exit_code == 0, done.output
    for words in ("wrote version 3", str(tmp_path / "out" / "README.md"), "docker build", "kubernetes.yaml", "treadle.service"):
        assert words in done.output
    done = CliRunner().invoke(app, ["package", str(tmp_path / "out"), "-f", str(home.project.folder), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["error"]["kind"]) == (2, "UserError")
    done = CliRunner().invoke(app, ["package", str(tmp_path / "again"), "-f", str(home.project.folder), "--json"])
    found = json.loads(done.stdout)
    assert (found["version"], found["folder"], found["needs"]["grace"]) == (3, str(tmp_path / "again"), 45)
