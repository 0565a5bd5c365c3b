"""A project of records with every kind of input that is no file, with a network as it was drawn."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sites import Site

from treadle.core.project import load_project
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.model.network import make_network, save_network
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

SPEC = """\
name: shop
data: {sources: [{table: shop.csv, licence: CC0-1.0}]}
model:
  inputs:
    price: {number: {scale: log}}
    colour: category
    sold: boolean
    day: date
    words: set
    past: {events: {context: 4}}
    note: {tokenizer: {words: 60}, context: 8}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
  heads: {kind: category, weight: number, parts: labels, returned: binary}
serve: {limits: {feedback_per_minute: null}}
"""
COLOURS = ("red", "blue")


def row(draw: random.Random, colours: tuple[str, ...] = COLOURS) -> dict[str, Any]:
    some = lambda *names: draw.sample(names, draw.randint(1, len(names)))  # noqa: E731
    return {
        "price": draw.uniform(1, 1000), "colour": draw.choice(colours), "sold": draw.random() < 0.5,
        "day": f"2026-01-{draw.randint(10, 28)}", "words": some("new", "old", "rare"), "past": some("a", "b", "c", "d"),
        "note": draw.choice(["as new", "worn"]), "kind": draw.choice(["hat", "coat"]), "weight": draw.gauss(5, 1),
        "parts": some("zip", "button"), "returned": draw.choice(["yes", "no"]),
    }


@contextlib.contextmanager
def shop_site(folder: Path, colours: tuple[str, ...] = COLOURS) -> Iterator[Site]:
    """The project in ``folder``, with version 1 live."""
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    schema, draw = Schema(project.spec.model), random.Random(0)
    schema.fit([Record(str(n), schema.parse(row(draw, colours)), "made up", "CC0-1.0", str(n)) for n in range(60)])
    store, ledger = Store(project.store), Ledger(project.store)
    id = store.identify("package", [], {}, 1)
    with store.create(id, parents=[], config={}, version=1, seed=0) as package:
        save_network(make_network(project.spec.model, schema.layouts, 0), package.path)
        schema.save(package.path)
    ledger.promote(id, "test")
    yield Site(project, store, ledger, (id, id, id))
    ledger.close()
