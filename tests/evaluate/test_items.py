"""Figures and baselines of next items, against plain loops in float64."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from tests.tiny import write_project

from treadle.data.schema import Schema
from treadle.evaluate import items as module
from treadle.evaluate.items import item_figures, recommenders
from treadle.evaluate.metrics import weights
from treadle.pipeline import Workshop, build
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Store

SPEC = """\
name: items
data:
  sources: [{table: rows.csv, licence: CC0-1.0, history: {user: user, item: item, time: time}}]
  split: {by: last}
model:
  inputs: {history: {events: {context: 4}}}
  trunk: {recurrent: {cell: gru, width: 24, embedding: 24}}
  heads: {next: {next_item: {negatives: 20}}}
train: {budget: 20 epochs, batch: 16, learning_rate: 0.02, threads: 1, precision: float32}
evaluate: {gate: {"hit@10": ">= 10%"}, resamples: 200}
"""


def rows(users: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """After item n mostly comes item n + 1 of 40, from a random start."""
    rng = np.random.default_rng(seed)
    found = []
    for user in range(users):
        item = int(rng.integers(40))
        seen = set()
        for time in range(int(rng.integers(5, 12))):
            item = (item + (1 if rng.random() < 0.8 else int(rng.integers(2, 30)))) % 40
            while item in seen:
                item = (item + 1) % 40
            seen.add(item)
            found.append((f"u{user}", f"i{item}", time))
    return found


def project(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "time"), *rows(80)])
    return write_project(folder, *overrides, text=SPEC)


def test_hits_and_gains_are_as_in_the_text_books():
    rng = np.random.default_rng(1)
    listed = np.stack([rng.permutation(30)[:10] for _ in range(50)])
    outputs = np.stack([listed, np.full(listed.shape, 0.1)], -1).astype(np.float32)
    targets = rng.integers(0, 30, (50, 1))
    outputs[0, :, 1] = 0.0  # listed, though it cannot follow: everything was seen
    ranks = [list(row).index(right) + 1 if right in row else math.inf for row, right in zip(listed, targets[:, 0], strict=True)]
    ranks[0] = math.inf
    found = item_figures(outputs, targets, None, weights(50, 400, 0))  # type: ignore[arg-type]
    assert found["hit@10"].value == pytest.approx(sum(rank <= 10 for rank in ranks) / 50)
    assert found["ndcg@10"].value == pytest.approx(sum(1 / math.log2(1 + rank) for rank in ranks) / 50)
    assert found["hit@10"].low < found["hit@10"].value < found["hit@10"].high


@pytest.mark.parametrize("neighbours", [100, 3])
def test_the_baselines_list_what_plain_loops_list(tmp_path, monkeypatch, neighbours):
    monkeypatch.setattr(module, "NEIGHBOURS", neighbours)
    made = project(tmp_path)
    store = Store(made.store)
    dataset = make_dataset(made, store, make_corpus(made, store))
    schema = Schema.load(dataset.path)
    target = schema.targets["next"]
    found = recommenders(dataset, schema, {"next": None})["next"]
    events = {user: [item for u, item, _ in rows(80) if u == user] for user in dict.fromkeys(u for u, _, _ in rows(80))}
    names = target.history.vocabulary.names  # type: ignore[attr-defined]
    trained = {user: set(own[:-2]) & set(names) for user, own in events.items()}
    counts = {name: sum(name in own for own in trained.values()) for name in names}
    near = {}
    for a in names:
        pairs = {b: sum({a, b} <= own for own in trained.values()) / math.sqrt(counts[a] * counts[b]) for b in names if b != a}
        kept = sorted(pairs, key=lambda b: (-pairs[b], names.index(b)))[:neighbours]
        near[a] = {b: pairs[b] for b in kept}
    for row, own in enumerate(events.values()):
        scores = {
            "most popular": counts,
            "item-kNN": {b: sum(near[a].get(b, 0.0) for a in set(own[:-1]) & set(names)) for b in names},
        }
        for name, score in scores.items():
            may = {b: score[b] for b in names if b not in own[:-1] and score[b] > 0}
            listed = [(names[int(id) - 3], share) for id, share in found[name][row] if share > 0]
            assert len(listed) == min(10, len(may))
            assert [round(may[b], 9) for b, _ in listed] == [round(s, 9) for s in sorted(may.values(), reverse=True)[:10]]
            assert sum(share for _, share in listed) == pytest.approx(sum(may[b] for b, _ in listed) / sum(may.values()))


def test_a_planted_order_is_found_and_beats_the_baselines(tmp_path):
    outcome = build(Workshop.open(project(tmp_path)), None)
    head = outcome.scorecard["heads"]["next"]
    ours, baselines = head["metrics"], head["baselines"]
    assert outcome.scorecard["records"] == 80
    assert ours["ndcg@10"]["low"] > max(baselines[name]["ndcg@10"]["high"] for name in ("most popular", "item-kNN"))
    assert baselines["item-kNN"]["against"]["verdict"] == "better"
    assert outcome.version == 1
