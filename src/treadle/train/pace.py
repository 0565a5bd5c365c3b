"""How fast a model trains at batches of several sizes, and which of them is best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from treadle.core.batch import Batch
from treadle.core.gradients import Gradients, Objective
from treadle.core.runtime import Runtime
from treadle.optim.make import make_optimizer
from treadle.spec.train import Train

VERSION = 1
_SECONDS = 1.5  # for each size, at most
_STEPS = 12
_NEARLY = 1.1
"""Of two sizes of which the smaller takes at most so much longer per example, the smaller one: it makes more steps of them."""


def seconds_per_example(
    model: Any, objective: Objective, batch_at: Callable[[int, int], Batch], settings: Train, batch: int, runtime: Runtime
) -> float:
    """Median of whole training steps of ``batch`` examples, at a rate that moves nothing."""
    model.to(runtime.device)
    optimizer = make_optimizer(model.named_parameters(), settings, 1e-12)
    gradients = Gradients(model, objective, runtime, settings)
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    with torch.random.fork_rng(devices=[]):
        while len(times) <= _STEPS and (len(times) < 2 or time.perf_counter() < end):
            begun = time.perf_counter()
            gradients(batch_at(len(times), batch).to(runtime.device))
            optimizer.update(settings.clip or None)
            times.append(time.perf_counter() - begun)
    gradients.close()
    return statistics.median(times[1:]) / batch  # the first also allocates


def smallest_fast(curve: Sequence[tuple[int, float]]) -> int:
    """Of (batch, seconds per example) the smallest batch that is nearly as fast as the fastest."""
    fastest = min(seconds for _, seconds in curve)
    return min(batch for batch, seconds in curve if seconds <= _NEARLY * fastest)
