"""Cross-validation from end to end: folds, their models, one scorecard."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from treadle.core.project import SpecError, load_project
from treadle.data.columns import load_column
from treadle.data.schema import Schema
from treadle.pipeline import Workshop, build
from treadle.report.facts import artifact_facts
from treadle.report.page import write_report
from treadle.show import outcome as shown

SPEC = """
name: folded
data:
  sources: [{table: rows.csv, licence: CC0-1.0}]
  split: {test: 20%, validation: 10%}
model:
  inputs: {x: number, y: number}
  trunk: {mlp: {width: 8, depth: 1}}
  heads: {kind: category, sum: number}
train: {budget: 4 epochs, batch: 16, learning_rate: 0.02, threads: 1, precision: float32}
evaluate: {folds: 2, resamples: 100}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of class ``c`` there is one record only, so that one fold learns another list of classes than the other."""
    folder, source = tmp_path_factory.mktemp("folded"), random.Random(0)
    (folder / "treadle.yaml").write_text(SPEC)
    with (folder / "rows.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["x", "y", "kind", "sum", "yes"])
        for number in range(120):
            x, y = source.gauss(0, 1), source.gauss(0, 1)
            out.writerow([x, y, "c" if number == 7 else "ab"[x > 0], 1000 + 5 * (x + y), "no" if y > 0 else "yes"])
    return folder


@pytest.fixture(scope="module")
def built(folder: Path):
    workshop = Workshop.open(load_project(folder))
    return workshop, build(workshop, None)


def test_the_pooled_figures_are_those_of_all_records_together(built: tuple):
    workshop, outcome = built
    card = outcome.folds
    assert card["records"] == 120
    right = wrong = 0
    squares, plain = [], []
    for id in card["folds"]:
        fold = workshop.store.open(id)
        dataset = workshop.store.open(fold.counts["dataset"])
        schema = Schema.load(dataset.path)
        target = schema.targets["kind"]
        said = [row["answer"] for row in target.answers(np.load(fold.path / "outputs.kind.npy"))]
        known = [target.classes[i] if i >= 0 else None for i in load_column(dataset.path, "test", "heads.kind").values]
        right += sum(a == b for a, b in zip(said, known, strict=True))
        wrong += sum(a != b for a, b in zip(said, known, strict=True))
        total = schema.targets["sum"]
        given = total.numbers(np.load(fold.path / "outputs.sum.npy")[:, 0])
        truth = total.numbers(np.asarray(load_column(dataset.path, "test", "heads.sum").values))
        squares += list((given - truth) ** 2)
        plain += list(truth)
    assert card["heads"]["kind"]["pooled"]["accuracy"]["value"] == pytest.approx(right / (right + wrong))
    assert right + wrong == 120  # a class that a fold's model never saw is answered wrong there
    assert card["heads"]["sum"]["pooled"]["rmse"]["value"] == pytest.approx(np.mean(squares) ** 0.5, rel=1e-4)
    assert np.mean(plain) == pytest.approx(1000, abs=2)


def test_mean_and_spread_are_those_of_the_folds(built: tuple):
    workshop, outcome = built
    figures = [workshop.store.open(id).counts["heads"]["sum"]["metrics"]["mae"]["value"] for id in outcome.folds["folds"]]
    found = outcome.folds["heads"]["sum"]["figures"]["mae"]
    assert (found["mean"], found["spread"]) == pytest.approx((np.mean(figures), np.std(figures, ddof=1)))


def test_it_is_printed_and_found_again(built: tuple, folder: Path):
    _, outcome = built
    text = "\n".join(shown(outcome.as_dict()))
    assert "cross-validation in 2 folds (120 records" in text
    assert "split by chance: records that are alike stay together" in text
    assert "\u00b1" in text
    assert "ahead of always the same in" in text
    again = build(Workshop.open(load_project(folder)), None)
    assert again.artifacts == outcome.artifacts
    assert again.version == 1


def test_the_report_shows_each_fold_and_what_parts_them(built: tuple):
    workshop, outcome = built
    page = write_report(workshop.project, workshop.store, workshop.ledger).read_text(encoding="utf-8")
    assert "Cross-validation in 2 folds" in page
    assert "120 records, each scored by a model that never saw it. The folds are split by chance" in page
    assert "every fold has like shares of each &#x27;kind&#x27;" in page
    figure = outcome.folds["heads"]["sum"]["figures"]["r2"]
    assert f"{figure['mean']:.3f} \u00b1 {figure['spread']:.3f}" in page
    for number, (id, value) in enumerate(zip(outcome.folds["folds"], figure["folds"], strict=True), 1):
        assert f"{value:.3f}</td>" in page
        assert f"fold {number}: " in page  # under the pointer
        fold = workshop.store.open(id)
        assert fold.counts["fold"] == {"number": number, "of": 2}
        assert f"fold {number} of 2: {fold.counts['records']} records" in artifact_facts(fold.manifest)
    (pooled,) = (workshop.store.open(id) for id in [outcome.artifacts["folds"]])
    assert any("2 folds of 120 records, split by chance" in fact for fact in artifact_facts(pooled.manifest))
    assert outcome.folds["sizes"] == [workshop.store.open(id).counts["records"] for id in outcome.folds["folds"]]


@pytest.mark.parametrize(("given", "said"), [
    ("evaluate.time=z", "the field of no input"), ("evaluate={time: x}", "evaluate.folds asks for none"), ("evaluate.folds=1", "2"),
])
def test_what_cannot_be_is_said_before_any_work(folder: Path, given: str, said: str):
    with pytest.raises(SpecError, match=said):
        load_project(folder, [given])


def test_in_order_of_time(folder: Path):
    project = load_project(folder, ["evaluate.time=x", "store=.time", "model.heads={sum: number}"])
    outcome = build(Workshop.open(project), None)
    assert outcome.folds["records"] == 80  # the first stretch of three is never scored
    assert outcome.folds["split"].startswith("by time: each fold is a stretch of 'x'")
