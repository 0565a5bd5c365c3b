"""Labels drawn by chance cannot be foretold: a network that says it can has seen the answers."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from treadle.core.errors import GateRefused
from treadle.core.project import load_project
from treadle.pipeline import Workshop, build

SPEC = """
name: chance
data:
  sources: [{table: rows.csv, licence: CC0-1.0}]
  split: {test: 40%, validation: 10%}
model:
  inputs: {x: number, y: number}
  trunk: {mlp: {width: 10, depth: 1}}
  heads: {label: {binary: {positive: "1"}}}
train: {budget: 30 epochs, batch: 16, learning_rate: 0.03, threads: 1, precision: float32}
evaluate: {gate: {accuracy: ">= 89%"}}
compress: {max_drift: 5%}
"""


def write(folder: Path, learnable: bool) -> None:
    source = random.Random(0)
    (folder / "treadle.yaml").write_text(SPEC)
    with (folder / "rows.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["x", "y", "label"])
        for _ in range(600):
            x, y = source.random(), source.random()
            out.writerow([x, y, int(x > y) if learnable else source.randint(0, 1)])


def test_the_same_network_learns_what_can_be_learned_and_no_more(tmp_path: Path):
    for folder, learnable in ((tmp_path / "rule", True), (tmp_path / "chance", False)):
        folder.mkdir()
        write(folder, learnable)
    assert build(Workshop.open(load_project(tmp_path / "rule")), None).version == 1
    with pytest.raises(GateRefused, match="accuracy") as caught:
        build(Workshop.open(load_project(tmp_path / "chance")), None)
    head = caught.value.figures["scorecard"]["heads"]["label"]
    accuracy, area = head["metrics"]["accuracy"], head["metrics"]["auc"]
    assert accuracy["low"] <= 0.5 <= accuracy["high"] < 0.65
    assert area["low"] <= 0.5 <= area["high"] < 0.65
    assert head["baselines"]["always the same"]["against"]["verdict"] == "even"
