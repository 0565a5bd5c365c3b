"""AdamW step by step against its paper in float64, and the schedule against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from treadle.optim.adamw import make_adamw
from treadle.optim.schedule import rate


def test_adamw_is_algorithm_2_with_decay_on_matrices_only():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    optimizer = make_adamw(layer.named_parameters(), 0.01, (0.9, 0.95), 0.1)
    state = {n: (p.detach().double().numpy().copy(), 0.0, 0.0) for n, p in layer.named_parameters()}
    for step in range(1, 21):
        x = torch.randn(4, 5)
        optimizer.zero_grad()
        (layer(x) ** 2).mean().backward()
        for name, p in layer.named_parameters():
            value, m, v = state[name]
            g = p.grad.double().numpy()
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            decay = 0.1 if name == "weight" else 0.0
            value = value - 0.01 * decay * value - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
            state[name] = (value, m, v)
        optimizer.step()
        for name, p in layer.named_parameters():
            assert np.allclose(p.detach().numpy(), state[name][0], atol=1e-6)


def test_frozen_parameters_are_left_alone():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    optimizer = make_adamw(layer.named_parameters(), 0.1, (0.9, 0.95), 0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


@given(st.floats(0, 1), st.floats(0.01, 0.5), st.floats(0, 0.9), st.sampled_from(["linear", "cosine"]))
def test_the_rate_stays_between_zero_and_its_peak(progress: float, warmup: float, final: float, shape: str):
    assert 0 <= rate(progress, 2.0, warmup, final, shape) <= 2.0 + 1e-12


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.55), ("cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))])
def test_the_rate_rises_peaks_and_falls(shape: str, middle: float):
    values = [rate(p, 1.0, 0.2, 0.1, shape) for p in (0.0, 0.1, 0.2, 0.6, 1.0, 1.2)]
    assert values == pytest.approx([0.0, 0.5, 1.0, middle, 0.1, 0.1])
    quarter = {"linear": 0.1 + 0.9 * 0.75, "cosine": 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))}[shape]
    assert rate(0.4, 1.0, 0.2, 0.1, shape) == pytest.approx(quarter)


def test_without_warmup_the_first_rate_is_the_peak():
    assert rate(0.0, 1.0, 0.0, 0.0, "linear") == 1.0
    assert rate(0.5, 1.0, 1.0, 0.0, "linear") == 0.5
