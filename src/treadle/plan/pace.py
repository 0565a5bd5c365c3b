"""How fast a model trains, and at which of several batches best."""

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
_CLEARLY = 1.15
"""More threads are taken where they are so many times faster: on cores that other programs use they lose more than they gain."""
_NEARLY = 1.1
"""Of two sizes of which the smaller takes at most so much longer per example, the smaller one: it makes more steps of them."""


def seconds_per_example(
    model: Any, objective: Objective, batch_at: Callable[[int, int], Batch], settings: Train, batch: int, runtime: Runtime
) -> float:
    """Median of whole training steps of ``batch`` examples. Torch's random state is as it was."""
    model.to(runtime.device)
    with torch.random.fork_rng(devices=[]):
        found = step_seconds(
            model, objective, lambda step: batch_at(step, batch), settings, runtime, warm=1, steps=_STEPS, seconds=_SECONDS, least=2
        )
    return found / batch


def step_seconds(
    model: Any, objective: Objective, batch_at: Callable[[int], Batch], settings: Train, runtime: Runtime, *,
    warm: int, steps: int, seconds: float, least: int = 1,
) -> float:
    """Median of so many whole training steps, at a rate that moves nothing, after ``warm`` others, which also allocate. After
    ``seconds`` none is begun if ``least`` were done; where all of them were warming up, the last one counts."""
    optimizer = make_optimizer(model.named_parameters(), settings, 1e-12)
    gradients = Gradients(model, objective, runtime, settings)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < warm + steps and (len(times) < least or time.perf_counter() < end):
        begun = time.perf_counter()
        gradients(batch_at(len(times)).to(runtime.device))
        optimizer.update(settings.clip or None)
        times.append(time.perf_counter() - begun)
    gradients.close()
    return statistics.median(times[warm:] or times[-1:])


def enough_threads(seconds: Callable[[int], float], most: int) -> tuple[int, tuple[tuple[int, float], ...]]:
    """Of 1, 2, 4 ... ``most`` threads as many as are clearly faster than fewer of them, and what was measured: the ``seconds`` of a
    step by the slower of two rounds, since what makes threads slow is another program that comes and goes."""
    counts = sorted({*(2**power for power in range(most.bit_length())), most})
    rounds = [{count: seconds(count) for count in order} for order in (counts, counts[::-1])]
    curve = tuple((count, max(times[count] for times in rounds)) for count in counts)
    chosen, time_of = counts[0], dict(curve)
    for count in counts[1:]:
        if time_of[chosen] >= _CLEARLY * time_of[count]:
            chosen = count
    return chosen, curve


def smallest_fast(curve: Sequence[tuple[int, float]]) -> int:
    """Of (batch, seconds per example) the smallest batch that is nearly as fast as the fastest."""
    fastest = min(seconds for _, seconds in curve)
    return min(batch for batch, seconds in curve if seconds <= _NEARLY * fastest)
