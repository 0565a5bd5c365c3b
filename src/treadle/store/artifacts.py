"""Artifacts: immutable folders named by what they were made from. A manifest, written last, says that one is whole.

    STORE/artifacts/KIND/HASH/manifest.json, ...    whole artifacts
    STORE/work/KIND-HASH/                           a stage's own notes, such as checkpoints; kept until the artifact is whole
    STORE/tmp/                                      drafts; left over only after a crash, and then removed
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from treadle.core.errors import ArtifactError, UserError, WorkError
from treadle.core.machine import environment
from treadle.core.progress import say

MANIFEST = "manifest.json"
KINDS = ("corpus", "dataset", "model", "scorecard", "package")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BARRED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EIO, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Artifact:
    """A whole artifact on disk."""

    id: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(self.manifest["parents"])

    @property
    def counts(self) -> Mapping[str, Any]:
        """The stage's figures and accounts."""
        return dict(self.manifest["counts"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.manifest["config"])


@dataclass(frozen=True)
class Making:
    """One artifact to be: what it is made from, hence its id, and whether it is there already."""

    store: Store
    id: str
    parents: tuple[str, ...]
    config: Mapping[str, Any]
    version: int
    seed: int

    def cached(self) -> Artifact | None:
        """The artifact, where an earlier run made it."""
        if not self.store.has(self.id):
            return None
        say(f"{self.id.partition('-')[0]}: cached ({self.id})")
        return self.store.open(self.id)

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Make it: fill the draft inside the ``with``; a normal exit publishes it, an exception leaves nothing."""
        with self.store.create(
            self.id, parents=self.parents, config=self.config, version=self.version, seed=self.seed
        ) as draft:
            yield draft

    def open(self) -> Artifact:
        return self.store.open(self.id)


@dataclass
class Draft:
    """An artifact in the making: write files under ``path``, figures into ``counts``."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)


class Store:
    """The folder that holds a project's artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def identify(self, kind: str, parents: Sequence[str], config: Mapping[str, Any], version: int) -> str:
        """The id of what ``kind``'s stage, at ``version``, makes of ``parents`` under ``config`` (JSON values)."""
        assert kind in KINDS, kind
        text = json.dumps([kind, list(parents), config, version], sort_keys=True, ensure_ascii=False)
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def making(self, kind: str, parents: Sequence[str], config: Mapping[str, Any], version: int, seed: int) -> Making:
        """What a stage is about to make, or made earlier of the same things."""
        return Making(self, self.identify(kind, parents, config, version), tuple(parents), config, version, seed)

    def folder(self, id: str) -> Path:
        """Where ``id`` lies or would lie. Raises ``UserError`` for what is not an id."""
        if not re.fullmatch(r"[a-z]+-[\w-]+", id):
            cure = "ids are like 'model-1a2b3c4d5e6f7890'; 'treadle report' lists them"
            raise UserError(f"{id!r} is not an artifact's id", cure=cure)
        kind, _, name = id.partition("-")
        return self.root / "artifacts" / kind / name

    def workspace(self, id: str) -> Path:
        """A folder that outlives a crash, for the stage that makes ``id``."""
        path = self.root / "work" / id
        with disk_errors(self.root):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def alone(self, workspace: Path) -> Iterator[None]:
        """Work in ``workspace``, which no other process does meanwhile. Raises ``WorkError`` where one does already."""
        with disk_errors(self.root), (workspace / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of by the system, however the process ends
            except BlockingIOError:
                cure = "wait until it ends, or stop it"
                raise WorkError(f"another process works on this already, in {workspace}", cure=cure) from None
            yield

    def discard(self, workspace: Path) -> None:
        """Remove a stage's workspace, whole or not at all: what a crash leaves of it is swept away as drafts are."""
        dropped = self.root / "tmp" / f"{workspace.name}-{os.getpid()}"
        shutil.rmtree(dropped, ignore_errors=True)
        workspace.rename(dropped)
        shutil.rmtree(dropped, ignore_errors=True)

    def has(self, id: str) -> bool:
        return (self.folder(id) / MANIFEST).is_file()

    def open(self, id: str) -> Artifact:
        """The artifact ``id``, every file of it compared with its hash. Raises ``ArtifactError``."""
        path = self.folder(id)
        cure = f"remove {path} and run again: it is made anew from its inputs"
        try:
            manifest = _read_manifest(path)
        except FileNotFoundError:
            raise ArtifactError(f"there is no whole artifact {id} in {self.root}", cure="run 'treadle run'") from None
        except ValueError as error:
            raise ArtifactError(f"{path / MANIFEST} is damaged: {error}", cure=cure) from None
        if manifest["id"] != id:
            raise ArtifactError(f"{path} says that it is {manifest['id']}, not {id}", cure=cure)
        files = manifest["files"]
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                raise ArtifactError(f"{file} is missing", cure=cure)
            if file.stat().st_size != expected["bytes"]:
                raise ArtifactError(f"{file} holds {file.stat().st_size} bytes, its manifest says {expected['bytes']}", cure=cure)
            if sha256_of(file) != expected["sha256"]:
                raise ArtifactError(f"{file} was changed after it was written (its sha256 differs)", cure=cure)
        for file in _files(path):
            if file not in files and file != MANIFEST:
                raise ArtifactError(f"{path / file} does not belong there: its manifest does not name it", cure=cure)
        return Artifact(id, path, manifest)

    @contextmanager
    def create(
        self, id: str, *, parents: Sequence[str], config: Mapping[str, Any], version: int, seed: int
    ) -> Iterator[Draft]:
        """Make artifact ``id``: fill the draft inside the ``with``; a normal exit publishes it, an exception leaves nothing."""
        temporary = self.root / "tmp" / f"{id}-{os.getpid()}"
        start = time.monotonic()
        try:
            with disk_errors(self.root):
                self._sweep()
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                draft = Draft(temporary)
                yield draft
                files = {
                    name: {"sha256": sha256_of(temporary / name), "bytes": (temporary / name).stat().st_size}
                    for name in _files(temporary)
                }
                manifest = {
                    "id": id, "kind": id.partition("-")[0], "stage_version": version, "parents": list(parents),
                    "config": config, "counts": draft.counts, "files": files, "seed": seed,
                    "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "seconds": round(time.monotonic() - start, 3), "environment": environment(),
                }
                manifest = json.loads(json.dumps(manifest))  # as it will be read
                write_json(temporary / MANIFEST, manifest | {"sha256": _digest(manifest)})
                for path in (*temporary.rglob("*"), temporary):
                    sync_file(path)
                self._publish(temporary, id)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _publish(self, temporary: Path, id: str) -> None:
        """Move a finished draft to its place. What another process finished meanwhile stays: equal inputs make equal artifacts."""
        final = self.folder(id)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.open(id)
        except ArtifactError:  # nothing there, a leftover without a manifest, or a damaged one
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        sync_file(final.parent)

    def _sweep(self) -> None:
        """Remove the drafts of processes that are no more."""
        for path in (self.root / "tmp").glob("*"):
            process = path.name.rpartition("-")[2]
            if not process.isdecimal() or not psutil.pid_exists(int(process)):
                shutil.rmtree(path, ignore_errors=True)

    def all(self) -> list[Mapping[str, Any]]:
        """The manifests of all whole artifacts, oldest first; files are not compared with their hashes."""
        found = []
        for path in (self.root / "artifacts").glob(f"*/*/{MANIFEST}"):
            try:
                found.append(_read_manifest(path.parent))
            except ValueError as error:
                cure = f"remove {path.parent} and run again: it is made anew from its inputs"
                raise ArtifactError(f"{path} is damaged: {error}", cure=cure) from None
        return sorted(found, key=lambda manifest: str(manifest["created"]))


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A config's nested mappings as one, their keys joined by dots; what is None or empty is left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif value is not None and value != []:
            found[f"{before}{key}"] = value
    return found


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message with the cure."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # Libraries that write in other languages wrap the system's error in one of their own, without its number.
        if number in _FULL or "No space left on device" in str(error):
            cure = "free some space and run the same command again: finished stages and checkpoints are kept"
            raise WorkError(f"the disk that holds {root} is full", cure=cure) from error
        if isinstance(error, OSError) and number in _BARRED and _under(error.filename, root):
            cure = "make it writable, or set 'store:' to another folder"
            raise WorkError(f"cannot write to {error.filename or root}: {error.strerror}", cure=cure) from error
        raise


def _under(name: Any, root: Path) -> bool:
    """Whether the file of an ``OSError`` is the store's; reading a user's file fails for reasons of its own."""
    return name is None or Path(os.fsdecode(name)).absolute().is_relative_to(root.absolute())


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ``FileNotFoundError``, or ``ValueError`` where it is not what ``Store.create`` wrote."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be read ({error})") from None
    digest = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if digest is None or digest != _digest(manifest):
        raise ValueError("its own sha256 differs")
    return dict(manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _files(folder: Path) -> list[str]:
    """All files under ``folder``, relative to it, in order."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
