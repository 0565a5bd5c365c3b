"""The rules as textbooks print them, in float64 by hand: w weights, g gradient, t the step from 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from treadle.optim.make import make_optimizer
from treadle.spec.train import Train

RATE, STEPS = 0.05, 25
Array = np.ndarray
Rule = Callable[[Array, Array, dict[str, Array], int], Array]


def descent(w: Array, g: Array, kept: dict[str, Array], t: int) -> Array:
    return w - RATE * g


def momentum(w: Array, g: Array, kept: dict[str, Array], t: int) -> Array:
    """Polyak 1964; Sutskever et al. 2013, equations 1 and 2, with the rate outside the sum."""
    kept["v"] = 0.9 * kept.get("v", np.zeros_like(w)) + g
    return w - RATE * kept["v"]


def adagrad(w: Array, g: Array, kept: dict[str, Array], t: int) -> Array:
    """Duchi et al. 2011."""
    kept["s"] = kept.get("s", np.zeros_like(w)) + g**2
    return w - RATE * g / (np.sqrt(kept["s"]) + 1e-10)


def rmsprop(w: Array, g: Array, kept: dict[str, Array], t: int) -> Array:
    """Tieleman and Hinton 2012."""
    kept["s"] = 0.99 * kept.get("s", np.zeros_like(w)) + 0.01 * g**2
    return w - RATE * g / (np.sqrt(kept["s"]) + 1e-8)


def adam(w: Array, g: Array, kept: dict[str, Array], t: int) -> Array:
    """Kingma and Ba 2015, algorithm 1: both means without their bias toward 0."""
    kept["m"] = 0.9 * kept.get("m", np.zeros_like(w)) + 0.1 * g
    kept["v"] = 0.999 * kept.get("v", np.zeros_like(w)) + 0.001 * g**2
    m, v = kept["m"] / (1 - 0.9**t), kept["v"] / (1 - 0.999**t)
    return w - RATE * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sgd": {"momentum": 0}}, descent), ({"sgd": {"momentum": 0.9}}, momentum), ("adagrad", adagrad), ("rmsprop", rmsprop),
        ({"adam": {"betas": [0.9, 0.999]}}, adam),
    ],
    ids=["gradient descent", "momentum", "AdaGrad", "RMSprop", "Adam"],
)
def test_every_step_is_that_of_the_formula(settings: object, rule: Rule):
    """Down a bowl that is steeper in some directions, 0.5 sum of a w^2, whose gradient is a w."""
    a, start = np.array([0.3, 1.0, 4.0, 9.0]), np.array([1.0, -2.0, 0.5, 3.0])
    p = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make_optimizer([("w", p)], Train.model_validate({"optimizer": settings, "weight_decay": 0.0}), RATE)
    w, kept = start, dict[str, Array]()
    for t in range(1, STEPS + 1):
        p.grad = torch.from_numpy(a) * p.detach()
        optimizer.update(None)
        w = rule(w, a * w, kept, t)
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-14)
