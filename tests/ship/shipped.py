"""A tiny project with a live version, random weights, and the folder that is packaged of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tiny import write_project
from treadle.core.project import Project
from treadle.data.tokenizer import train_tokenizer
from treadle.model.hub import save_model
from treadle.model.model import make_model
from treadle.ship.package import Shipped
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

NAME = "tiny.model_1"


@dataclass(frozen=True)
class Home:
    """Where the version was made, and what was packaged of it. Its live version is the third."""

    project: Project
    store: Store
    ledger: Ledger
    shipped: Shipped

    @property
    def folder(self) -> Path:
        return self.shipped.folder

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def documents(self, name: str) -> list[dict]:
        return list(YAML(typ="safe", pure=True).load_all(self.text(name)))


def live_project(folder: Path, seed: int = 0) -> tuple[Project, Store, Ledger, str]:
    """The tiny project with a package of random weights, which its ledger does not know yet."""
    project = write_project(folder, "serve.drain=7", "serve.host=0.0.0.0", f"name={NAME}")
    store = Store(project.store)
    tokenizer = train_tokenizer([Path(json.__file__).with_name("decoder.py").read_text()], project.resolved.shape.vocabulary)
    id = store.identify("package", [], {"seed": seed}, 1)
    with store.create(id, parents=[], config={"seed": seed}, version=1, seed=seed) as draft:
        save_model(make_model(project.resolved.shape, seed=seed), draft.path)
        tokenizer.save(str(draft.path / "tokenizer.json"))
    return project, store, Ledger(project.store), id
