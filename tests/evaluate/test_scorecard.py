"""The scorecard of a real tiny model: every setting shows in it, and it is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tiny import write_project
from treadle.core.errors import WorkError
from treadle.core.project import load_project
from treadle.data.shards import Shard
from treadle.evaluate.compare import compare
from treadle.evaluate.stage import evaluate_model
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Artifact, Store
from treadle.train.rounds import first_round
from treadle.train.stage import train_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    project = write_project(tmp_path_factory.mktemp("evaluate"))
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    return project, store, dataset, train_model(project, store, dataset, first_round(project, dataset))


def card(trained: tuple, *overrides: str) -> Artifact:
    project, store, dataset, model = trained
    return evaluate_model(load_project(project.folder, overrides), store, model, dataset)


def test_the_card_is_the_sum_over_its_documents(trained: tuple):
    found = card(trained, "evaluate.max_tokens=1M")
    table = pq.read_table(found.path / "documents.parquet")
    counts = json.loads((found.path / "scorecard.json").read_text())
    assert counts == found.counts
    nats, size = np.sum(table["nats"].to_numpy()), np.sum(table["bytes"].to_numpy())
    assert counts["metrics"]["bits_per_byte"]["value"] == pytest.approx(nats / np.log(2) / size)
    shard = Shard(trained[2].path, "test")
    assert (counts["documents"], counts["bytes"], counts["tokens"]) == (len(shard), shard.bytes.sum(), len(shard.tokens))
    assert counts["left_out"] == {"documents": 0, "tokens": 0}
    assert set(counts["baselines"]) == {"unigram", "trigram", "lzma"}
    assert counts["baselines"]["trigram"]["bits_per_byte"]["value"] < counts["baselines"]["unigram"]["bits_per_byte"]["value"]


def test_what_is_left_out_is_stated(trained: tuple):
    whole, part = card(trained, "evaluate.max_tokens=1M").counts, card(trained, "evaluate.max_tokens=1000").counts
    assert part["documents"] < whole["documents"]
    assert part["left_out"]["documents"] == whole["documents"] - part["documents"]
    assert part["left_out"]["tokens"] + part["tokens"] == whole["tokens"]


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.sample.prompts=['class ']", "evaluate.sample.tokens=3", "evaluate.sample.temperature=1.5",
        "evaluate.resamples=300", "evaluate.gate.accuracy='>= 1%'",
    ],
)
def test_every_setting_changes_the_card(trained: tuple, override: str):
    plain, other = (card(trained, "evaluate.max_tokens=1M", *more).counts for more in ((), (override,)))
    assert plain != other
    assert plain["metrics"]["loss"]["value"] == other["metrics"]["loss"]["value"]


def test_cards_of_different_documents_are_not_compared(trained: tuple):
    whole, part = card(trained, "evaluate.max_tokens=1M"), card(trained, "evaluate.max_tokens=1000")
    with pytest.raises(WorkError, match="scored different documents"):
        compare(whole, part, 100, 0)
    change, before = compare(whole, whole, 100, 0)
    assert (change.value, change.low, change.high) == (0, 0, 0)
    assert before == pytest.approx(whole.counts["metrics"]["bits_per_byte"]["value"])


def test_a_wider_gap_than_documents_differ_is_found_by_pairing(trained: tuple, tmp_path: Path):
    """The paired interval is narrower than those of the two figures: what the documents share cancels."""
    project, store, dataset, _ = trained
    longer = load_project(project.folder, ["train.budget=60 steps", "evaluate.max_tokens=1M"])
    better = evaluate_model(longer, store, train_model(longer, store, dataset, first_round(longer, dataset)), dataset)
    worse = card(trained, "evaluate.max_tokens=1M")
    change, _ = compare(worse, better, 500, 0)
    assert change.high < 0
    single = worse.counts["metrics"]["bits_per_byte"]
    assert change.high - change.low < single["high"] - single["low"]
