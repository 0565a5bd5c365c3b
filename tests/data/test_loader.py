from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.core.batch import IGNORE, Batch
from treadle.core.errors import UserError
from treadle.data.loader import Mixed, Windows
from treadle.data.shards import END_ID, Document, Shard, write_shard

RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_shard(folder: Path, lengths: list[int], first: int = 1, masked: bool = False) -> Shard:
    """Documents whose tokens count upwards from ``first``, so that every token says where it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, at = [], first
    for number, length in enumerate(lengths):
        tokens = [*range(at, at + length), END_ID]
        mask = [position % 2 for position in range(length + 1)] if masked else None
        documents.append(Document(f"d{number}", f"file{number}", tokens, length, mask))
        at += length
    write_shard(folder, "train", documents)
    return Shard(folder, "train")


def same(one: Batch, two: Batch) -> bool:
    return torch.equal(one.inputs["text"], two.inputs["text"]) and torch.equal(one.targets["next"], two.targets["next"])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 16), st.integers(0, 99), st.integers(0, 3))
@RELAXED
def test_each_window_once_per_epoch_and_targets_follow_inputs(
    tmp_path: Path, lengths: list[int], context: int, seed: int, epoch: int
) -> None:
    shard = make_shard(tmp_path, lengths)
    windows = Windows(shard, context, seed)
    numbers = np.arange(epoch * windows.windows, (epoch + 1) * windows.windows)
    batch = windows.rows(numbers)
    ring = shard.tokens.tolist()
    total = len(ring)
    covered: list[int] = []
    starts = windows._order(epoch)
    for row, start in enumerate(starts.tolist()):
        places = [(start + i) % total for i in range(context)]
        covered += places
        assert batch.targets["next"][row].tolist() == [ring[p] for p in places]
        assert batch.inputs["text"][row].tolist() == [ring[p - 1] for p in places]
    if total >= context:
        assert len(covered) == len(set(covered)) == windows.tokens_per_epoch > total - context


@given(st.integers(0, 50), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 9))
@RELAXED
def test_batches_are_pure_and_do_not_depend_on_how_examples_are_grouped(tmp_path: Path, step: int, part: int, seed: int) -> None:
    shard = make_shard(tmp_path, [30, 7, 55])
    whole = Windows(shard, 8, seed).batch_at(step, 12)
    assert same(whole, Windows(shard, 8, seed).batch_at(step, 12))
    used = Windows(shard, 8, seed)
    used.batch_at(step + 17, 5)
    assert same(whole, used.batch_at(step, 12))
    pieces = [used.batch_at(step * (12 // part) + i, part) for i in range(12 // part)]
    assert torch.equal(whole.inputs["text"], torch.cat([p.inputs["text"] for p in pieces]))


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, [400])
    windows = Windows(shard, 8, 0)
    assert not same(windows.batch_at(0, 16), Windows(shard, 8, 1).batch_at(0, 16))
    assert sorted(windows._order(0).tolist()) != sorted(windows._order(1).tolist())


def test_order_is_the_same_on_every_machine(tmp_path: Path) -> None:
    # A change here changes every run that was made before.
    assert Windows(make_shard(tmp_path, [99]), 10, 7)._order(3).tolist() == [97, 107, 67, 157, 137, 87, 117, 147, 77, 127]

def test_first_token_is_read_after_an_end_mark(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, [20, 20])
    windows = Windows(shard, 4, 0)
    for epoch in range(20):
        batch = windows.rows(np.arange(epoch * windows.windows, (epoch + 1) * windows.windows))
        before = batch.inputs["text"][batch.targets["next"] == 1]  # 1 is the first document's first token
        assert (before == END_ID).all()


def test_masked_targets_are_ignored(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, [30], masked=True)
    batch = Windows(shard, 31, 0).batch_at(0, 1)
    assert (batch.targets["next"] == IGNORE).sum() == 16
    assert sorted(batch.targets["next"][batch.targets["next"] != IGNORE].tolist()) == list(range(2, 31, 2))


def test_a_small_shard_goes_round_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    windows = Windows(make_shard(tmp_path / "small", [3]), 10, 0)
    assert windows.windows == 1
    row = windows.batch_at(0, 1).targets["next"][0].tolist()
    assert row[:4] == row[4:8]
    assert set(row) == {END_ID, 1, 2, 3}
    (tmp_path / "none").mkdir()
    write_shard(tmp_path / "none", "train", [])
    with pytest.raises(UserError, match="train part holds no tokens"):
        Windows(Shard(tmp_path / "none", "train"), 10, 0)


@given(st.integers(0, 40), st.sampled_from([0.0, 0.25, 0.5, 0.3, 1.0]))
@RELAXED
def test_mixing_keeps_the_share_and_each_sequence_in_order(tmp_path: Path, step: int, share: float) -> None:
    old, new = make_shard(tmp_path / "old", [90]), make_shard(tmp_path / "new", [50], first=1000)
    mixed = Mixed(Windows(old, 5, 1), Windows(new, 5, 2), share)
    batch = mixed.batch_at(step, 20)
    fresh = (batch.targets["next"] >= 1000).any(1)
    assert fresh.sum() == round(20 * share)
    taken = round(step * 20 * share)
    expected = Windows(new, 5, 2).rows(np.arange(taken, taken + round(20 * share)))
    assert torch.equal(batch.targets["next"][fresh], expected.targets["next"])
    single = torch.cat([mixed.batch_at(step * 20 + i, 1).inputs["text"] for i in range(20)])
    assert torch.equal(batch.inputs["text"], single)
