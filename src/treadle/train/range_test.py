"""A range test for the peak rate: in a hundred steps it rises from far too low to far too high (Smith 2017, section 3.3)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from treadle.core.batch import Batch
from treadle.core.gradients import Gradients, Objective
from treadle.core.progress import task
from treadle.core.runtime import Runtime
from treadle.core.scaling import LossScale
from treadle.optim.make import make_optimizer
from treadle.spec.train import Train
from treadle.spec.units import significant

VERSION = 1
STEPS = 100
_LOW, _HIGH = 0.01, 1000.0
"""First and last rate, as a share of the one that follows from the size."""
_MEMORY = 0.9
"""Share of the smoothed loss that goes into the next."""
_QUIET = 20
"""First steps, whose rates are low: they show the loss before it falls, and its noise."""
_SHARE = 1 / 3
"""Of the rate at which the loss is lowest: above it training is about to blow up, and a whole run needs some distance."""


@dataclass(frozen=True)
class Range:
    """``rate`` is None where the loss fell at no rate."""

    rate: float | None
    points: tuple[tuple[float, float], ...]
    """(rate, smoothed loss) of each step."""
    reason: str


def range_test(
    model: Any, objective: Objective, batch_at: Callable[[int], Batch], settings: Train, around: float, runtime: Runtime, seed: int
) -> Range:
    """Train ``model``, whose weights are then of no more use, at rates from far below ``around`` to far above it. A pure function
    of its arguments; torch's random state is as it was."""
    model.to(runtime.device)
    scales = model.layer_scales(settings.layer_decay) if settings.layer_decay < 1 else {}
    optimizer = make_optimizer(model.named_parameters(), settings, around, scales)
    gradients = Gradients(model, objective, runtime, settings)
    scaling = LossScale() if runtime.scales_loss else None
    points: list[tuple[float, float]] = []
    mean = 0.0
    try:
        with torch.random.fork_rng(devices=[]), task("range test", STEPS, "steps") as progress:
            torch.manual_seed(seed)
            for step in range(STEPS):
                rate = around * _LOW * (_HIGH / _LOW) ** (step / (STEPS - 1))
                for group in optimizer.param_groups:
                    group.lr = rate * group.lr_scale
                loss = gradients(batch_at(step).to(runtime.device), scaling.value if scaling else 1.0).loss
                mean = _MEMORY * mean + (1 - _MEMORY) * loss
                smooth = mean / (1 - _MEMORY ** (step + 1))
                if not math.isfinite(smooth):
                    break
                if not math.isfinite(optimizer.update(settings.clip or None)):
                    if scaling is None or not scaling.overflowed():
                        break
                    model.zero_grad(set_to_none=True)
                points.append((rate, smooth))
                progress.advance(1, f"loss {smooth:.3f} at {rate:.2g}")
                if _blown_up([value for _, value in points]):
                    break
    finally:
        gradients.close()
    return choose(points)


def choose(points: list[tuple[float, float]]) -> Range:
    """The rate that the curve of (rate, smoothed loss) speaks for."""
    kept = tuple((significant(rate), significant(loss, 5)) for rate, loss in points)
    if len(points) > _QUIET:
        rate, lowest = min(points, key=lambda point: point[1])
        quiet = [loss for _, loss in points[:_QUIET]]
        level = statistics.fmean(quiet)
        if level - lowest > max(3 * statistics.stdev(quiet), 0.01 * abs(level)):
            found = significant(_SHARE * rate, 2)
            why = f"a third of {rate:.2g}, where the loss of a range test of {len(points)} steps was lowest (Smith 2017)"
            return Range(found, kept, why)
    return Range(None, kept, "the loss of a range test fell at no rate by more than its noise")


def _blown_up(smooth: list[float]) -> bool:
    """Whether the loss is twice what it was at first."""
    return len(smooth) > _QUIET and smooth[-1] > 2 * abs(statistics.fmean(smooth[:_QUIET]))
