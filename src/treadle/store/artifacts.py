"""Artifacts: immutable folders named by what they were made from. A manifest, written last, says that one is whole.

    STORE/artifacts/KIND/HASH/manifest.json, ...    whole artifacts
    STORE/work/KIND-HASH/                           a stage's own notes, such as checkpoints; kept until the artifact is whole
    STORE/tmp/                                      drafts; left over only after a crash, and then removed
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from treadle.core.errors import ArtifactError, WorkError
from treadle.core.machine import environment

MANIFEST = "manifest.json"
KINDS = ("corpus", "dataset", "model", "scorecard", "package")


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

    def folder(self, id: str) -> Path:
        kind, _, name = id.partition("-")
        return self.root / "artifacts" / kind / name

    def workspace(self, id: str) -> Path:
        """A folder that outlives a crash, for the stage that makes ``id``."""
        path = self.root / "work" / id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, id: str) -> bool:
        return (self.folder(id) / MANIFEST).is_file()

    def open(self, id: str) -> Artifact:
        """The artifact ``id``, every file of it compared with its hash. Raises ``ArtifactError``."""
        path = self.folder(id)
        cure = f"remove {path} and run again: it is made anew from its inputs"
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            files = dict(manifest["files"])
        except FileNotFoundError:
            raise ArtifactError(f"there is no whole artifact {id} in {self.root}", cure="run 'treadle run'") from None
        except (ValueError, KeyError, UnicodeDecodeError):
            raise ArtifactError(f"{path / MANIFEST} is damaged", cure=cure) from None
        if manifest.get("id") != id:
            raise ArtifactError(f"{path} says that it is {manifest.get('id')}, not {id}", cure=cure)
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                raise ArtifactError(f"{file} is missing", cure=cure)
            if file.stat().st_size != expected["bytes"]:
                raise ArtifactError(f"{file} holds {file.stat().st_size} bytes, its manifest says {expected['bytes']}", cure=cure)
            if sha256_of(file) != expected["sha256"]:
                raise ArtifactError(f"{file} was changed after it was written (its sha256 differs)", cure=cure)
        return Artifact(id, path, manifest)

    @contextmanager
    def create(
        self, id: str, *, parents: Sequence[str], config: Mapping[str, Any], version: int, seed: int
    ) -> Iterator[Draft]:
        """Make artifact ``id``: fill the draft inside the ``with``; a normal exit publishes it, an exception leaves nothing."""
        temporary = self.root / "tmp" / f"{id}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        start = time.monotonic()
        try:
            with disk_errors(self.root):
                temporary.mkdir(parents=True)
                draft = Draft(temporary)
                yield draft
                files = {
                    str(file.relative_to(temporary)): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
                    for file in sorted(temporary.rglob("*")) if file.is_file()
                }
                manifest = {
                    "id": id, "kind": id.partition("-")[0], "stage_version": version, "parents": list(parents),
                    "config": config, "counts": draft.counts, "files": files, "seed": seed,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "seconds": round(time.monotonic() - start, 3), "environment": environment(),
                }
                write_json(temporary / MANIFEST, manifest)
                for name in files:
                    _sync(temporary / name)
                final = self.folder(id)
                final.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(final, ignore_errors=True)  # a leftover without a manifest, or a damaged one that was refused
                temporary.rename(final)
                _sync(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def all(self) -> list[Mapping[str, Any]]:
        """The manifests of all whole artifacts, oldest first; files are not compared with their hashes."""
        found = []
        for path in (self.root / "artifacts").glob(f"*/*/{MANIFEST}"):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                raise ArtifactError(f"{path} is damaged", cure=f"remove {path.parent} and run again") from None
        return sorted(found, key=lambda manifest: str(manifest["created"]))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message with the cure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = "free some space and run the same command again: finished stages and checkpoints are kept"
            raise WorkError(f"the disk that holds {root} is full", cure=cure) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            cure = "make it writable, or set 'store:' to another folder"
            raise WorkError(f"cannot write to {error.filename or root}: {error.strerror}", cure=cure) from error
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
