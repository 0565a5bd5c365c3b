"""The learning rate over the course of a run."""

from __future__ import annotations

import math

from treadle.spec.schedules import OneCycle, Plateau, Schedule, Stable, Steps


def rate(progress: float, peak: float, warmup: float, final: float, schedule: Schedule, falls: int = 0) -> float:
    """The rate at ``progress`` in [0, 1]: from zero to ``peak`` over the share ``warmup``, then as ``schedule`` says, and never
    below ``final`` x ``peak``. ``falls``: how often validation has stopped getting better, which ``plateau`` heeds."""
    settings = schedule.settings
    if isinstance(settings, OneCycle):
        return peak * _one_cycle(min(progress, 1.0), settings)
    if progress < warmup:
        return peak * progress / warmup
    done = min(1.0, (progress - warmup) / (1.0 - warmup)) if warmup < 1.0 else 1.0
    match settings:
        case Steps():
            return peak * max(final, settings.factor ** int(progress / settings.every + 1e-9))
        case Plateau():
            return peak * max(final, settings.factor**falls)
        case Stable():
            left = _falling(max(0.0, min(progress, 1.0) - (1.0 - settings.fall)) / settings.fall, settings.shape)
        case _:
            left = 1.0 if schedule.constant else _falling(done, schedule.kind)
    return peak * (final + (1.0 - final) * left)


def _falling(done: float, shape: str) -> float:
    """From 1 to 0 as ``done`` goes from 0 to 1."""
    if shape == "linear":
        return 1.0 - done
    return 1.0 - math.sqrt(done) if shape == "root" else 0.5 * (1.0 + math.cos(math.pi * done))


def _one_cycle(progress: float, settings: OneCycle) -> float:
    if progress < settings.rise:
        return settings.start + (1.0 - settings.start) * (1.0 - _falling(progress / settings.rise, "cosine"))
    left = _falling((progress - settings.rise) / (1.0 - settings.rise) if settings.rise < 1.0 else 1.0, "cosine")
    return settings.end + (1.0 - settings.end) * left
