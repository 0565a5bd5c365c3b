"""Boosted trees beside the network: the same records, the same answers' form, and a word where they cannot be."""

from __future__ import annotations

import builtins
import csv
import random
from pathlib import Path
from typing import Any

import pytest

from treadle.core.project import Project, load_project
from treadle.evaluate.stage import evaluate_model
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.show import scorecard
from treadle.store.artifacts import Artifact, Store
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

SPEC = """
name: table
data:
  sources: [{table: rows.csv, licence: CC0-1.0}]
  split: {test: 30%, validation: 15%}
model:
  inputs: {shape: category, size: number, when: date, tags: set, wet: boolean}
  trunk: {mlp: {width: 16, depth: 1}}
  heads: {kind: category, yes: binary, price: number}
train: {budget: 2 epochs, batch: 32, threads: 1, precision: float32}
"""


def write_rows(folder: Path, count: int = 400) -> None:
    """What is asked for follows from the columns by rules that trees find at once."""
    source = random.Random(0)
    with (folder / "rows.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["shape", "size", "when", "tags", "wet", "kind", "yes", "price", "note"])
        for _ in range(count):
            shape, size, wet = source.choice("abc"), source.random(), source.random() < 0.5
            tags = [tag for tag in ("new", "big", "old") if source.random() < 0.5]
            month = source.randrange(1, 13)
            kind = "summer" if 4 <= month <= 9 else "winter"
            yes = (shape == "b") != ("big" in tags)
            price = 100 * (size > 0.5) + 10 * wet
            given = size if source.random() < 0.95 else ""
            out.writerow([shape, given, f"2024-{month:02d}-11", ",".join(tags), wet, kind, yes, price, f"a {shape} of {size}"])


def scored(folder: Path, *overrides: str) -> tuple[Project, Store, Artifact, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "treadle.yaml").write_text(SPEC)
    write_rows(folder)
    project = load_project(folder, overrides)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    model = train_model(project, store, dataset, first_round(project, dataset))
    return project, store, model, dict(evaluate_model(project, store, model, dataset).counts)


def test_trees_find_what_can_be_found(tmp_path: Path):
    pytest.importorskip("sklearn")
    _, _, _, card = scored(tmp_path)
    trees = {name: head["baselines"]["boosted trees"] for name, head in card["heads"].items()}
    assert trees["kind"]["accuracy"]["value"] > 0.99  # from the date
    assert trees["yes"]["accuracy"]["value"] > 0.99  # from a category and a set together
    assert trees["price"]["r2"]["value"] > 0.9  # from a number and yes or no; one number in twenty is missing
    shares = card["heads"]["kind"]["baselines"]["always the same"]["accuracy"]["value"]
    assert 0.4 < shares < 0.6
    against = card["heads"]["yes"]["baselines"]["boosted trees"]["against"]
    assert against["verdict"] == "worse"
    text = "\n".join(scorecard(card))
    assert "worse than boosted trees: accuracy -" in text
    assert "points (" in text


def test_what_is_no_column_of_a_table_they_go_without(tmp_path: Path):
    pytest.importorskip("sklearn")
    _, _, _, card = scored(tmp_path, "model.inputs={note: {tokenizer: {words: 100}}, tags: set}", "model.heads={price: number}")
    found = card["heads"]["price"]["baselines"]["boosted trees without note"]
    assert found["r2"]["value"] < 0.2  # tags tell nothing of the price
    _, _, _, card = scored(tmp_path, "model.inputs={note: {tokenizer: {words: 100}}}", "model.heads={price: number}")
    assert set(card["heads"]["price"]["baselines"]) == {"always the same"}


def test_without_the_library_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    real = builtins.__import__

    def without(name: str, *more: Any, **other: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *more, **other)

    monkeypatch.setattr(builtins, "__import__", without)
    _, _, _, card = scored(tmp_path, "model.inputs={size: number}", "model.heads={price: number}")
    assert set(card["heads"]["price"]["baselines"]) == {"always the same"}
    assert "pip install 'treadle[evaluate]'" in capsys.readouterr().err
