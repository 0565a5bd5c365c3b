"""Records in batches: each once per epoch, in an order that no batch size changes; and the arrays that they are cut from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.batch import Batch, join
from treadle.core.errors import UserError
from treadle.data.columns import Column, load_column, ragged, save_column
from treadle.data.loader import Chosen
from treadle.data.table import Table

SEEDS = st.integers(0, 2**31 - 1)


def table(lengths: list[int], seed: int, shuffle: bool = True) -> Table:
    """Record n holds its number n, as often as it is long, and as its answer."""
    texts = ragged([np.full(length, n) for n, length in enumerate(lengths)], np.int64)
    numbers = np.arange(len(lengths), dtype=np.float32)
    return Table("train", {"text": texts, "n": Column(numbers)}, {"y": Column(numbers)}, seed, shuffle=shuffle)


def order(found: Batch) -> list[int]:
    """Which records a batch holds; they are whole."""
    for row, length, n in zip(found.inputs["text"], found.lengths["text"], found.inputs["n"], strict=True):
        assert (row[:length] == int(n)).all()
        assert (row[length:] == 0).all()
    assert torch.equal(found.inputs["n"], found.targets["y"])
    return [int(n) for n in found.targets["y"]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=150), SEEDS, st.integers(1, 40), st.integers(0, 3))
def test_each_record_once_per_epoch_whatever_the_batch(lengths: list[int], seed: int, batch: int, epoch: int):
    count, source = len(lengths), table(lengths, seed)
    first = epoch * count
    whole = order(source.rows(np.arange(first, first + count)))
    assert sorted(whole) == list(range(count))
    steps = range(first // batch, (first + count - 1) // batch + 1)
    walked = [n for step in steps for n in order(table(lengths, seed).batch_at(step, batch))]
    start = first - (first // batch) * batch
    assert walked[start : start + count] == whole


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2500), SEEDS)
def test_records_of_like_length_are_neighbours(count: int, seed: int):
    lengths = np.random.default_rng(seed).integers(1, 100, count).tolist()
    found = [lengths[n] for n in table(lengths, seed)._order(0)]
    whole = count // 32 * 32
    for start in range(0, whole, 32):
        block = found[start : start + 32]
        ends = [at for at in range(1, 32) if block[at] < block[at - 1]]
        assert len(ends) <= 1  # a block is sorted, or holds the end of one window and the start of the next
    if count >= 1024:
        blocks = np.array(found[:whole]).reshape(-1, 32)
        spread, by_chance = np.ptp(blocks, 1).mean(), 95
        assert spread < by_chance / 8


def test_orders_differ_by_seed_and_epoch_and_stay_without_shuffling():
    lengths = [3] * 50
    orders = [order(table(lengths, seed).rows(np.arange(50) + 50 * epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4
    assert order(table(lengths, 0, shuffle=False).rows(np.arange(50, 60))) == list(range(10))
    assert order(table(lengths, 5).whole()) == list(range(50))
    assert order(Chosen(table(lengths, 0, shuffle=False), np.array([7, 3])).rows(np.array([1, 0]))) == [3, 7]
    with pytest.raises(UserError, match="the train part holds no records"):
        table([], 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=12), st.data())
def test_ragged_columns_give_back_their_rows(rows: list[list[int]], data: st.DataObject):
    column = ragged([np.array(row, np.int64) for row in rows], np.int64)
    assert len(column) == len(rows)
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20)), np.int64)
    values, lengths = column.rows(index)
    assert lengths is not None
    assert [list(row[:length]) for row, length in zip(values, lengths, strict=True)] == [rows[i] for i in index]
    assert values.shape[1] == max(1, *(len(rows[i]) for i in index))
    assert values.sum() == sum(sum(rows[i]) for i in index)  # behind its length a row holds zeros


def test_columns_at_rest(tmp_path: Path):
    wide = ragged([np.ones((2, 3)), np.zeros((0, 3)), np.full((1, 3), 2.0)], np.float32, (3,))
    plain = Column(np.arange(6, dtype=np.float32).reshape(3, 2))
    for name, column in (("wide", wide), ("plain", plain)):
        save_column(tmp_path, "train", name, column)
        again = load_column(tmp_path, "train", name)
        assert np.array_equal(again.values, column.values)
        assert (again.starts is None) is (column.starts is None)
        assert np.array_equal(again.rows(np.array([2, 0]))[0], column.rows(np.array([2, 0]))[0])
    assert load_column(tmp_path, "train", "wide").lengths().tolist() == [2, 0, 1]  # type: ignore[union-attr]
    assert plain.lengths() is None
    assert ragged([], np.int64).rows(np.zeros(0, np.int64))[0].shape == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.lists(st.integers(1, 6), min_size=1, max_size=8), SEEDS)
def test_batches_are_joined_taken_from_and_split(one: list[int], two: list[int], seed: int):
    first, second = (table(lengths, 0, shuffle=False).whole() for lengths in (one, two))
    both = join(first, second)
    assert both.size == len(one) + len(two)
    assert both.lengths["text"].tolist() == one + two
    assert order(both) == [*range(len(one)), *range(len(two))]
    turn = torch.randperm(both.size, generator=torch.Generator().manual_seed(seed))
    assert order(both.take(turn)) == [order(both)[i] for i in turn]
    halves = both.take(torch.arange(both.size).repeat(2)).split(2)
    assert [order(half) for half in halves] == [order(both)] * 2
    assert both.positions == both.inputs["text"].numel()


def test_batches_of_frames_are_filled_up_along_time_only():
    one, two = (Batch({"x": torch.ones(1, frames, 4)}, {"y": torch.zeros(1)}, {"x": torch.tensor([frames])}) for frames in (2, 5))
    both = join(one, two)
    assert both.inputs["x"].shape == (2, 5, 4)
    assert both.inputs["x"].sum((1, 2)).tolist() == [8, 20]
