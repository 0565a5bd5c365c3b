"""Speeds of two models, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def in_turn(models: Sequence[Any], work: Callable[[Any], int], rounds: int = 5) -> list[float]:
    """How much ``work`` says that it did with each model, per second: the median of alternating rounds, so that drift cancels."""
    found: list[list[float]] = [[] for _ in models]
    for turn in range(rounds + 1):
        for model, speeds in zip(models, found, strict=True):
            start = time.perf_counter()
            done = work(model)
            if turn:  # the first round warms up
                speeds.append(done / (time.perf_counter() - start))
    return [statistics.median(speeds) for speeds in found]
