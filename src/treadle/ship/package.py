"""``treadle package``: a folder with all that runs the live version elsewhere.

    FOLDER/README.md             for people: three ways to run it, keys, newer versions, what each file is
    FOLDER/project/              what is served: a short treadle.yaml, the seed of a ledger, the package under store/, kernels
    FOLDER/requirements.txt      exact versions; beside it Treadle's own wheel
    FOLDER/Dockerfile, .dockerignore, compose.yaml, kubernetes.yaml, treadle.service
    FOLDER/edge/                 the model as plain files, their hashes, and a check that needs Python alone
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import treadle
from treadle.core.errors import ArtifactError, SourceError, UserError
from treadle.core.prebuilt import build
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.ship import verify
from treadle.ship.needs import Needs, needs_of
from treadle.ship.requirements import pins
from treadle.ship.wheel import write_wheel
from treadle.store.artifacts import MANIFEST, Artifact, Store, sha256_of, write_json
from treadle.store.ledger import Ledger
from treadle.store.seed import Seed

TEMPLATES = Path(__file__).parent / "templates"
PORT = 8000
_UNPRIVILEGED = 1024
_DEBIAN = "trixie"


@dataclass(frozen=True)
class Shipped:
    """What was written where."""

    folder: Path
    name: str
    version: int
    package: str
    bytes: int
    """Of the package."""
    needs: Needs

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ship(project: Project, store: Store, ledger: Ledger, folder: Path | None = None) -> Shipped:
    """Write the live version into ``folder`` (default: NAME-vVERSION), whole or not at all.

    Raises ``UserError`` where nothing is live, or ``folder`` is there already or cannot be written, ``ArtifactError`` for a
    damaged package, ``WorkError`` where what runs here cannot be named (see ``write_wheel`` and ``pins``).
    """
    seed = Seed.of(project.spec.name, ledger.must_be_live())
    target = folder or Path(f"{seed.project}-v{seed.version}")
    if target.exists():
        cure = "name another folder, or remove that one; each version has a folder of its own, to go back to"
        raise UserError(f"{target} is there already", cure=cure)
    artifact = store.open(seed.package)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
            draft = Path(name) / "draft"
            needs = _fill(draft, project, artifact, seed)
            draft.rename(target)
    except OSError as error:
        cure = "choose a folder that you may write to, on a disk with room"
        raise UserError(f"cannot write {target}: {error.strerror}", cure=cure) from None
    return Shipped(target, seed.project, seed.version, seed.package, _size(artifact.path), needs)


def _fill(draft: Path, project: Project, artifact: Artifact, seed: Seed) -> Needs:
    """Write the folder's files into ``draft``."""
    served = draft / "project"
    copy = Store(served / "store").folder(seed.package)
    copy_whole(artifact, copy)
    shutil.copy(artifact.path / MANIFEST, copy / MANIFEST)
    Store(served / "store").open(seed.package)
    seed.write(served / "seed.json")
    write_project_file(project, served / "treadle.yaml")
    build(served / "kernels")
    needs = needs_of(copy, project.spec.serve.drain)
    wheel = write_wheel(draft)
    packages = pins("treadle[otel]" if project.spec.serve.traces else "treadle")
    head = f"# Python {_python()} on Linux, as installed where the version was packaged\n"
    lines = "".join(f"{name}=={version}\n" for name, version in packages.items())
    (draft / "requirements.txt").write_text(head + lines, encoding="utf-8")
    _edge(artifact, copy, seed, project, draft / "edge")
    values = _values(project, seed, needs, wheel.name, packages["torch"], _size(copy))
    for template in sorted(TEMPLATES.iterdir()):
        text = filled(template.read_text(encoding="utf-8"), values)
        (draft / template.name.replace("dot-", ".")).write_text(text, encoding="utf-8")
    for path in (draft, *draft.rglob("*")):  # whatever the umask: it is read by a user who owns nothing of it
        path.chmod(0o755 if path.is_dir() else 0o644)
    return needs


def copy_whole(artifact: Artifact, folder: Path) -> None:
    """Copy the files that the manifest of ``artifact`` names, each compared with its hash there. Raises ``ArtifactError``."""
    for name, expected in artifact.manifest["files"].items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, place)
        if sha256_of(place) != expected["sha256"]:
            cure = f"run again; if it fails again, check the disks that hold {artifact.path} and {folder}"
            raise ArtifactError(f"{artifact.path / name} was changed while it was copied (its sha256 differs)", cure=cure)


def write_project_file(project: Project, path: Path) -> None:
    """A treadle.yaml with what serving reads: the name, the model's description, ``serve:``; of the data, the licences."""
    given: dict[str, Any] = project.document().value
    serve = {key: value for key, value in given.get("serve", {}).items() if key not in ("host", "port", "beside")}
    if project.spec.serve.beside:
        say("serve.beside is left out: a folder has one model; package the others too, and start one '--with' the others' project/")
    document = {
        "name": project.spec.name, "store": "store", "ledger": "sqlite:///$TREADLE_STATE/ledger.db",
        "data": {"sources": [{"files": "none-is-shipped", "licence": licence} for licence in licences(project)]},
        "model": given["model"], "serve": serve | {"port": port(project)},
    }
    with path.open("w", encoding="utf-8") as stream:
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(document, stream)


def licences(project: Project) -> list[str]:
    """What the data may be used under that the model learned from."""
    return sorted({source.licence for source in project.spec.data.sources})


def port(project: Project) -> int:
    """The project's own; 8000 where it takes any, or one that only the administrator may listen on."""
    return project.spec.serve.port if project.spec.serve.port >= _UNPRIVILEGED else PORT


def _edge(artifact: Artifact, copy: Path, seed: Seed, project: Project, folder: Path) -> None:
    """The model's files once more, without Treadle's store around them; as links to the same bytes where the disk has links."""
    for name in artifact.manifest["files"]:
        if name in verify.OWN:
            raise SourceError(f"the package holds a file {name}, which the edge bundle has a use of its own for")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(copy / name, folder / name)
        except OSError:
            shutil.copyfile(copy / name, folder / name)
    shutil.copyfile(verify.__file__, folder / "verify.py")
    write_json(folder / "manifest.json", {
        "project": seed.project, "version": seed.version, "package": seed.package, "treadle": treadle.__version__,
        "licences": licences(project), "files": artifact.manifest["files"],
    })


def _values(project: Project, seed: Seed, needs: Needs, wheel: str, torch: str, size: int) -> dict[str, str]:
    """What the templates' marks stand for."""
    label = re.sub(r"[^a-z0-9-]+", "-", seed.project).strip("-")[:40].strip("-")
    label = label if label[:1].isalpha() else f"m-{label}"
    image = re.sub(r"[._-]+", "-", seed.project).strip("-")
    return {
        "name": seed.project, "label": label, "image": f"{image}:v{seed.version}", "version": str(seed.version),
        "package": seed.package, "licences": _plain(" AND ".join(licences(project))), "treadle": treadle.__version__,
        "wheel": wheel, "torch": torch, "python": _python(), "base": f"python:{_python()}-slim-{_DEBIAN}",
        "port": str(port(project)), "drain": f"{project.spec.serve.drain:g}", "grace": str(needs.grace),
        "memory": str(needs.memory), "most_memory": str(needs.most_memory), "package_mib": f"{size / 1024**2:.1f}",
        "promoted": seed.promoted,
    }


def _plain(text: str) -> str:
    """``text`` without what means something in one of the files that it stands in."""
    return re.sub(r"[^\w .+():/-]+", " ", text)


def filled(text: str, values: dict[str, str]) -> str:
    """``text`` with each ``{{mark}}`` replaced by what ``values`` says."""
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: values[mark[1]], text)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
