"""Projects whose live version marks names and places, learned in a second, or says how much two texts are alike."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from treadle.core.project import Project, load_project
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.network import Network, make_network, save_network
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

SPEC = """
name: names
data: {sources: [{table: rows.jsonl, licence: CC0-1.0}], clean: {pii: keep}}
model:
  inputs: {note: {tokenizer: {words: 18}, context: 12}}
  trunk: {recurrent: {width: 16, directions: 2, embedding: 16}}
  heads: {spans: tags}
serve: {port: 0}
"""
WORDS = {"Ann Lee": "PERSON", "Bob": "PERSON", "Oslo": "PLACE", "Port Vell": "PLACE"}
REST = ["met", "in", "and", "saw"]


def row(draw: random.Random) -> dict[str, object]:
    text, spans = "", []
    for _ in range(draw.randint(1, 6)):
        unknown = [chr(draw.randrange(0x100, 0x3000)), draw.choice("&<>/@.")]
        word = draw.choice([*WORDS, *REST, *unknown])
        if word in WORDS:
            spans.append({"start": len(text), "end": len(text) + len(word), "label": WORDS[word]})
        text += word + " "
    return {"note": text, "spans": spans}


def tagged_project(folder: Path) -> tuple[Project, Store, Ledger, str]:
    """The project with version 1 live; its package's id is last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "treadle.yaml").write_text(SPEC)
    project, draw = load_project(folder), random.Random(0)
    schema = Schema(project.spec.model)
    plain = [schema.parse(row(draw)) for _ in range(200)]
    schema.fit([Record(str(number), fields, "made up", "CC0-1.0", str(number)) for number, fields in enumerate(plain)])
    network = make_network(project.spec.model, schema.layouts, 0)
    table = Table("train", schema.encode_inputs(plain), schema.encode_targets(plain), 0)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for step in range(60):
        network.train().loss(table.batch_at(step, 32)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return live(project, schema, network)


ALIKE = """
name: alike
data: {sources: [{table: rows.csv, licence: CC0-1.0}]}
model:
  inputs: {texts: {pair: {columns: [one, two], tokenizer: {words: 30}, context: 8}}}
  trunk: {recurrent: {width: 8, embedding: 8}}
  heads: {alike: {embedding: {column: score}}}
serve: {port: 0}
"""


def alike_project(folder: Path) -> tuple[Project, Store, Ledger, str]:
    """The same of fresh weights; answers were 1 to 5."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "treadle.yaml").write_text(ALIKE)
    project = load_project(folder)
    schema = Schema(project.spec.model)
    plain = [schema.parse({"one": "a small dog", "two": "a tiny hound runs", "score": score}) for score in (1, 5)]
    schema.fit([Record(str(number), fields, "made up", "CC0-1.0", str(number)) for number, fields in enumerate(plain)])
    return live(project, schema, make_network(project.spec.model, schema.layouts, 0))


def live(project: Project, schema: Schema, network: Network) -> tuple[Project, Store, Ledger, str]:
    store, ledger = Store(project.store), Ledger(project.store)
    id = store.identify("package", [], {}, 1)
    with store.create(id, parents=[], config={}, version=1, seed=0) as package:
        save_network(network, package.path)
        schema.save(package.path)
    ledger.promote(id, "test")
    return project, store, ledger, id
