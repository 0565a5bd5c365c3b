"""Documents in full rows: each token once, each document apart, and the batch at a step follows from the step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loader import make_shard

from treadle.core.batch import IGNORE, Batch
from treadle.core.errors import UserError
from treadle.data.loader import Mixed
from treadle.data.packing import Packed, fill_rows
from treadle.data.rows import Documents
from treadle.data.shards import END_ID, Shard, write_shard

RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def pieces_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """What each piece reads and is asked for."""
    found: list[tuple[list[int], list[int]]] = []
    for read, asked, places in zip(batch.inputs["text"], batch.targets["next"], batch.places["text"], strict=True):
        starts = [*(places == 0).nonzero()[:, 0].tolist(), len(places)]
        assert starts[0] == 0
        for a, b in pairwise(starts):
            assert places[a:b].tolist() == list(range(b - a))
            found.append((read[a:b].tolist(), asked[a:b].tolist()))
    return found


def same(one: Batch, two: Batch) -> bool:
    pairs = [(a[key], b[key]) for a, b in zip(one.parts, two.parts, strict=True) for key in a]
    return all(torch.equal(a, b) for a, b in pairs)


def epoch_of(packed: Packed, epoch: int) -> Batch:
    return packed.rows(np.arange(epoch * packed.windows, (epoch + 1) * packed.windows))


@given(LENGTHS, st.integers(1, 16), st.integers(0, 99), st.integers(0, 3))
@RELAXED
def test_every_token_is_predicted_once_from_its_own_document(
    tmp_path: Path, lengths: list[int], context: int, seed: int, epoch: int
) -> None:
    shard = make_shard(tmp_path, lengths)
    packed = Packed(shard, context, seed)
    batch = epoch_of(packed, epoch)
    text = shard.tokens.tolist()  # each token but the end mark stands in it once
    starts = set(shard.starts.tolist())
    seen: list[int] = []
    for read, asked in pieces_of(batch):
        if set(asked) == {IGNORE}:
            assert set(read) == {END_ID}  # padding
            continue
        assert read[1:] == asked[:-1], "a piece reads what it was asked for"
        assert END_ID not in asked[:-1], "a piece ends with its document"
        seen += asked
        if asked[0] == END_ID:
            continue
        first = text.index(asked[0])
        assert read[0] == (END_ID if first in starts else text[first - 1])
    assert sorted(seen) == sorted(text)
    rows = -(-len(text) // context)
    assert packed.windows == rows
    assert packed.tokens_per_epoch == len(text)
    assert (batch.targets["next"] == IGNORE).sum() == rows * context - len(text) < context, "one row at most is not full"


@given(LENGTHS, st.integers(1, 16), st.integers(0, 9))
@RELAXED
def test_documents_that_fit_stay_whole_but_for_one_cut_a_row(tmp_path: Path, lengths: list[int], context: int, seed: int) -> None:
    packed = Packed(make_shard(tmp_path, lengths), context, seed)
    pieces = [asked for _, asked in pieces_of(epoch_of(packed, 0)) if asked[0] != IGNORE]
    longer = sum(length + 1 > context for length in lengths)
    at_best = sum(-(-(length + 1) // context) for length in lengths)
    rows, _ = packed._epoch(0)
    assert rows.cut <= len(rows.ends)
    assert len(pieces) <= at_best + longer + rows.cut  # where a long one is cut is drawn, which may make a piece more
    assert f"; {longer} are longer than a row and cut, and {rows.cut} cuts more" in packed.words()


def test_short_documents_are_not_cut_where_they_fill_the_rows(tmp_path: Path) -> None:
    lengths = [*range(1, 31)] * 20
    packed = Packed(make_shard(tmp_path, [length - 1 for length in lengths]), 64, 0)
    assert packed._epoch(0)[0].cut == 0
    assert sorted(len(asked) for _, asked in pieces_of(epoch_of(packed, 0)) if asked[0] != IGNORE) == sorted(lengths)


def test_the_longest_that_fits_goes_first_and_the_shortest_is_cut() -> None:
    rows = fill_rows(np.array([[0, 6], [6, 7], [13, 3], [16, 9]]), 10, 25)
    assert [rows.of(row).tolist() for row in range(3)] == [[[16, 9], [13, 1]], [[6, 7], [14, 2], [0, 1]], [[1, 5], [25, 5]]]
    assert rows.cut == 2


@given(st.integers(0, 50), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 9))
@RELAXED
def test_batches_are_pure_and_do_not_depend_on_how_examples_are_grouped(tmp_path: Path, step: int, part: int, seed: int) -> None:
    shard = make_shard(tmp_path, [30, 7, 55, 2, 2, 9])
    whole = Packed(shard, 8, seed).batch_at(step, 12)
    used = Packed(shard, 8, seed)
    used.batch_at(step + 17, 5)
    assert same(whole, used.batch_at(step, 12))
    pieces = [used.batch_at(step * (12 // part) + i, part) for i in range(12 // part)]
    assert torch.equal(whole.inputs["text"], torch.cat([p.inputs["text"] for p in pieces]))
    assert torch.equal(whole.places["text"], torch.cat([p.places["text"] for p in pieces]))


def test_seeds_and_epochs_cut_elsewhere(tmp_path: Path) -> None:
    packed = Packed(make_shard(tmp_path, [4000]), 64, 0)
    starts = [{asked[0] for _, asked in pieces_of(epoch_of(packed, epoch))} for epoch in range(3)]
    starts.append({asked[0] for _, asked in pieces_of(epoch_of(Packed(packed.shard, 64, 1), 0))})
    assert all(len(a & b) <= 4 for i, a in enumerate(starts) for b in starts[:i])


def test_order_is_the_same_on_every_machine(tmp_path: Path) -> None:
    # A change here changes every run that was made before.
    packed = Packed(make_shard(tmp_path, [25, 3, 6]), 10, 7)
    assert epoch_of(packed, 3).targets["next"].tolist() == [
        [15, 16, 17, 18, 19, 20, 21, 22, 23, 24], [26, 27, 28, 0, 2, 3, 4, IGNORE, IGNORE, IGNORE],
        [29, 30, 31, 32, 33, 34, 0, 25, 0, 1], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    ]


def test_masked_targets_are_ignored(tmp_path: Path) -> None:
    targets = Packed(make_shard(tmp_path, [30, 5], masked=True), 37, 0).batch_at(0, 1).targets["next"]
    assert sorted(targets[targets != IGNORE].tolist()) == sorted([*range(2, 31, 2), 32, 34, END_ID])


def test_an_empty_shard_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", [])
    with pytest.raises(UserError, match="train part holds no tokens"):
        Packed(Shard(tmp_path, "train"), 10, 0)


def test_rows_of_users_answers_stand_beside_packed_ones(tmp_path: Path) -> None:
    old, new = make_shard(tmp_path / "old", [5, 2, 9, 1]), make_shard(tmp_path / "new", [3, 4], first=1000)
    batch = Mixed(Packed(old, 12, 0), Documents(new, 12, 0), 0.5).batch_at(1, 4)
    fresh = (batch.targets["next"] >= 1000).any(1)
    assert fresh.sum() == 2
    assert (batch.places["text"][fresh] == torch.arange(12)).all()
    old_places = Packed(old, 12, 0).rows(np.arange(2, 4)).places["text"]
    assert torch.equal(batch.places["text"][~fresh], old_places)
