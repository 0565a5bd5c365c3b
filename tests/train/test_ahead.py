"""Batches drawn ahead are the same batches."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from treadle.core.batch import Batch
from treadle.data.loader import Examples, Numbers
from treadle.train import ahead
from treadle.train.ahead import Ahead


class Numbered:
    """Batches that hold their step, and who drew them."""

    def __init__(self, seconds: float = 0.0, broken: int = -1) -> None:
        self.seconds, self.broken = seconds, broken
        self.drawn: list[tuple[int, str]] = []

    def batch_at(self, step: int, batch: int) -> Batch:
        self.drawn.append((step, threading.current_thread().name))
        time.sleep(self.seconds)
        if step == self.broken:
            raise ValueError("this batch cannot be read")
        return Batch({"x": torch.full((batch,), step)}, {})


def steps_of(batches: Ahead, steps: list[int]) -> list[int]:
    return [int(batches.batch_at(step, 4).inputs["x"][0]) for step in steps]


def test_slow_ones_come_from_the_thread_and_in_order():
    source = Numbered(2 * ahead._WORTH)
    batches = Ahead(source)
    assert steps_of(batches, list(range(8))) == list(range(8))
    batches.close()
    names = dict(source.drawn)
    assert [step for step in range(8) if names[step].startswith("batches")] == [3, 4, 5, 6, 7]
    assert len(source.drawn) <= 9  # each once, and one that nobody asked for


def test_quick_ones_do_not():
    source = Numbered()
    batches = Ahead(source)
    assert steps_of(batches, list(range(8))) == list(range(8))
    batches.close()
    assert not [name for _, name in source.drawn if name.startswith("batches")]
    assert len(batches.tried) == ahead._TRIED  # what is remembered does not grow with the run


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 9, 10], [0, 1, 2, 3, 4, 0, 1], [5, 5, 5, 5, 5]], ids=["on", "back", "again"])
def test_another_step_than_the_next_is_still_that_step(order: list[int]):
    batches = Ahead(Numbered(2 * ahead._WORTH))
    assert steps_of(batches, order) == order
    batches.close()


def test_what_drawing_raises_is_raised_when_its_turn_comes():
    batches = Ahead(Numbered(2 * ahead._WORTH, broken=5))
    assert steps_of(batches, [0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="cannot be read"):
        batches.batch_at(5, 4)
    batches.close()


class Rows(Examples):
    """Examples that are their own numbers."""

    alike = True

    def __init__(self, width: int = 1) -> None:
        self.width, self.calls = width, 0

    def rows(self, numbers: Numbers) -> Batch:
        self.calls += 1
        return Batch({"x": torch.from_numpy(numbers)[:, None].expand(-1, self.width)}, {})


@pytest.mark.parametrize("order", [
    list(range(40)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 31, 32, 33], [*range(12), 3, 4, 5, 9, 10], [7] * 5,
], ids=["on", "skipped", "back", "again"])
def test_quick_ones_that_are_alike_are_drawn_together(order: list[int]):
    source = Rows()
    batches = Ahead(source)
    for step in order:
        assert batches.batch_at(step, 4).inputs["x"][:, 0].tolist() == list(range(4 * step, 4 * step + 4))
    assert len(batches.drawn) < ahead._TOGETHER
    batches.close()
    if order == list(range(40)):
        assert source.calls == ahead._TOGETHER + 1  # one by one up to the next block's beginning


def test_large_ones_are_drawn_one_by_one():
    source = Rows(ahead._MOST // 4)
    batches = Ahead(source)
    for step in range(20):
        batches.batch_at(step, 4)
    batches.close()
    assert source.calls == 20
