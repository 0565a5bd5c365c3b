"""Language models learn from documents apart; what reads on from one document to the next learns from running text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiny import SPEC, write_project
from treadle.core.batch import IGNORE
from treadle.data.packing import Packed
from treadle.data.shards import Shard
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Store
from treadle.train.rounds import Round, first_round
from treadle.train.stage import train_model

TRUNK = "transformer: {depth: 1, width: 32, heads: 2, kv_heads: 1, hidden: 64}"
RECURRENT = SPEC.replace(TRUNK, "recurrent: {width: 16, embedding: 8}")


def made(folder: Path, text: str = SPEC) -> tuple[Round, Shard]:
    project = write_project(folder, text=text)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    return first_round(project, dataset), Shard(dataset.path, "train")


def test_a_language_model_is_trained_and_validated_on_documents_apart(tmp_path: Path):
    round, shard = made(tmp_path)
    assert isinstance(round.batches, Packed)
    assert isinstance(round.held_out, Packed)
    assert round.per_epoch == len(shard.tokens)
    whole = round.batches.rows(np.arange(round.batches.windows))
    assert (whole.targets["next"] != IGNORE).sum() == round.per_epoch
    assert (whole.places["text"] == 0).sum() >= len(shard)


def test_a_recurrent_net_reads_on(tmp_path: Path):
    round, _ = made(tmp_path, RECURRENT)
    assert not round.batches.batch_at(0, 4).places


def test_a_run_says_what_it_cuts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    project = write_project(tmp_path, "train.budget=2 steps")
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    round = first_round(project, dataset)
    train_model(project, store, dataset, round)
    assert isinstance(round.batches, Packed)
    assert round.batches.words() in " ".join(capsys.readouterr().err.split())
