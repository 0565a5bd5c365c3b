"""Batches drawn ahead: the next one while the one before is computed, or several at once where each is quick to draw."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from treadle.core.batch import Batch
from treadle.data.loader import Examples

_WORTH = 1e-3
"""Seconds of drawing from which on a thread is worth its hand-over."""
_TRIED = 3
_TOGETHER = 32
_MOST = 2**22
"""Numbers in batches that are drawn together, at most."""


class Batches(Protocol):
    """Where examples come from: a pure function of the step and the number of rows."""

    def batch_at(self, step: int, batch: int) -> Batch: ...


class Ahead:
    """The batches of ``source``, from a thread once the quickest of the first few took over ``_WORTH``, else where they are
    ``alike`` several at once: the calls for a small one take longer than its numbers. Since a batch follows from its step alone,
    nothing depends on when it is drawn."""

    def __init__(self, source: Batches) -> None:
        self.source = source
        self.together = False
        self.drawn: dict[tuple[int, int], Batch] = {}
        self.pool = ThreadPoolExecutor(1, "batches", lambda: torch.set_num_threads(1))
        self.tried: list[float] = []
        self.waiting: tuple[tuple[int, int], Future[Batch]] | None = None

    def batch_at(self, step: int, batch: int) -> Batch:
        """Step ``step`` of ``batch`` examples. What drawing raises is raised here."""
        waiting, self.waiting = self.waiting, None
        if waiting and waiting[0] == (step, batch):
            found = waiting[1].result()
        elif (step, batch) in self.drawn:
            return self.drawn.pop((step, batch))
        elif self.together and step % _TOGETHER == 0:
            parts = self.source.batch_at(step // _TOGETHER, batch * _TOGETHER).split(_TOGETHER)
            self.drawn = {(step + place, batch): part for place, part in enumerate(parts)}
            return self.drawn.pop((step, batch))
        else:
            start = time.perf_counter()
            found = self.source.batch_at(step, batch)
            if len(self.tried) < _TRIED:
                self.tried.append(time.perf_counter() - start)
                numbers = sum(tensor.numel() for part in found.parts for tensor in part.values())
                alike = isinstance(self.source, Examples) and self.source.alike
                self.together = alike and min(self.tried) <= _WORTH and numbers * _TOGETHER <= _MOST
        if len(self.tried) >= _TRIED and min(self.tried) > _WORTH:
            self.waiting = (step + 1, batch), self.pool.submit(self.source.batch_at, step + 1, batch)
        return found

    def close(self) -> None:
        """Let the thread go."""
        self.pool.shutdown(cancel_futures=True)
