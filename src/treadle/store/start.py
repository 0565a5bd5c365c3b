"""An earlier model that a new one starts from: its tokenizer, and its trunk's weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from treadle.core.errors import UserError
from treadle.core.project import Project, load_project
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

_FILES = ("network.json", "tokenizer.json", "model.safetensors")


@dataclass(frozen=True)
class Start:
    """A model's folder, and the SHA-256 of what is taken from it."""

    folder: Path
    content: str

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"


def open_start(project: Project) -> Start | None:
    """What ``model.start_from`` names: a model's folder, or a project's, whose live model it then is. None: fresh weights.

    Raises ``UserError`` where there is no such model.
    """
    given = project.spec.model.start_from
    if given is None:
        return None
    folder = project.folder / given
    if (folder / "treadle.yaml").is_file():
        folder = _live_model(load_project(folder))
    if any(not (folder / name).is_file() for name in _FILES):
        cure = "name a project with a masked or a recurrent language model, or the folder of such a model"
        raise UserError(f"model.start_from: {given!r} holds no {', '.join(_FILES)}", cure=cure)
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update((folder / name).read_bytes())
    return Start(folder, digest.hexdigest())


def _live_model(project: Project) -> Path:
    ledger = Ledger(project.store, project.ledger_url)
    try:
        live = ledger.live()
    finally:
        ledger.close()
    if live is None:
        raise UserError(f"model.start_from: no version is live in {project.spec.name}", cure="run 'treadle run' there first")
    store = Store(project.store)
    return store.open(store.open(live["package"]).parents[0]).path
