"""The learning rate over the course of a run."""

from __future__ import annotations

import math


def rate(progress: float, peak: float, warmup: float, final: float, shape: str) -> float:
    """The rate at ``progress`` in [0, 1]: from zero to ``peak`` over the share ``warmup``, then to ``final`` x ``peak``.

    ``shape``: ``linear``, or ``cosine`` (Loshchilov and Hutter 2017, eq. 5).
    """
    if progress < warmup:
        return peak * progress / warmup
    done = min(1.0, (progress - warmup) / (1.0 - warmup)) if warmup < 1.0 else 1.0
    left = 1.0 - done if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (final + (1.0 - final) * left)
