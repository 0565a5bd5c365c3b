"""A head of pairs that belong together, without grades: from a table to a scorecard, and what its temperature changes."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from tiny import write_project
from treadle.pipeline import Workshop, build
from treadle.serve.file import predict_file

SPEC = """\
name: together
data:
  sources: [{table: pairs.csv, licence: CC0-1.0}]
  split: {test: 25%, validation: 15%}
model:
  inputs: {texts: {pair: {columns: [question, reply], tokenizer: {words: 80}, context: 8}}}
  trunk: {mlp: {width: 16, depth: 1}}
  heads: {find: {embedding: {temperature: 0.05}}}
train: {budget: 25 epochs, batch: 32, learning_rate: 0.02, threads: 1, precision: float32}
evaluate: {gate: {recall@10: ">= 50%"}, resamples: 100}
compress: {quantize: int8, max_drift: 20%}
"""
WORDS = ["red", "blue", "warm", "cold", "near", "far", "old", "new", "loud", "calm"]


def write_pairs(folder: Path) -> None:
    """A reply has the question's words in another tongue."""
    draw = random.Random(0)
    with (folder / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question", "reply"])
        for _ in range(240):
            words = draw.sample(WORDS, 3)
            writer.writerow([" ".join(words), " ".join(f"{word[::-1]}o" for word in words)])
        writer.writerow(["alone", ""])


@pytest.mark.parametrize("temperature", [0.05, 5.0])
def test_replies_are_found_by_their_questions(temperature: float, tmp_path: Path) -> None:
    text = SPEC if temperature == 0.05 else SPEC.replace("0.05", "5.0").replace("50%", "0%")
    project = write_project(tmp_path, text=text)
    write_pairs(tmp_path)
    workshop = Workshop.open(project)
    made = build(workshop, None)
    assert made.as_dict()["account"]["set_aside"] == {"no text": 1}
    head = made.scorecard["heads"]["find"]
    assert set(head["metrics"]) == {"loss", "recall@1", "recall@10"}
    assert set(head["baselines"]) == {"words alone"}
    found, alone = (figures["recall@10"]["value"] for figures in (head["metrics"], head["baselines"]["words alone"]))
    assert alone < 0.2
    assert (found > 0.8) is (temperature == 0.05)  # so blunt a softmax hardly tells near from far
    if temperature == 0.05:
        assert head["baselines"]["words alone"]["against"]["verdict"] == "better"
        (tmp_path / "ask.csv").write_text("question,reply\nred warm old,dero mrawo dloo\nred warm old,loudo\nred warm old,\n")
        out = predict_file(project, workshop.store, workshop.ledger, tmp_path / "ask.csv", tmp_path / "out.csv").path
        near, far, vector = (row["find.answer"] for row in csv.DictReader(out.open()))
        assert float(near) > float(far)
        assert len(vector.strip("[]").split(",")) == 16
