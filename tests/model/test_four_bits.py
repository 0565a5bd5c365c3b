"""Weights in four bits: each is as near as its group allows, and products are those of what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tiny import SHAPE
from treadle.model.layers.four_bits import GROUP, Int4Linear, quantize_groups
from treadle.model.layers.quantized import Int8Embedding, quantize_language
from treadle.model.model import make_model


def back(weight: Tensor) -> Tensor:
    """What is left of ``weight``, in float64."""
    layer = Int4Linear.of(_linear(weight))
    return layer.dequantized().double()


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


@given(st.integers(0, 2**31 - 1), st.integers(1, 100), st.floats(1e-6, 1e4))
def test_each_weight_is_within_a_step_of_its_group(seed: int, columns: int, size: float) -> None:
    """Half a step if the ends were kept; the line by least squares may leave them outside by as much again."""
    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight[3] = 0
    _, scale, _ = quantize_groups(weight)
    steps = scale.double().repeat_interleave(GROUP, 1)[:, :columns]
    assert ((back(weight) - weight.double()).abs() <= 1.1 * steps + 1e-12).all()
    assert not back(weight)[3].any()


def test_a_line_by_least_squares_is_nearer_than_the_ends_of_the_range() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    groups = weight.double().view(64, -1, GROUP)
    least, high = groups.aminmax(dim=2, keepdim=True)
    plain = torch.round((groups - least) / (high - least) * 15) * (high - least) / 15 + least
    error, usual = ((x - groups).square().mean() for x in (back(weight).view_as(groups), plain))
    assert error < 0.9 * usual


def test_sixteen_values_with_even_steps_are_kept() -> None:
    steps = torch.arange(32).remainder(16)[None] * 0.25 - 1.75
    assert torch.equal(back(steps.repeat(3, 2)), steps.repeat(3, 2).double())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 31), (5, 32), (7, 33), (64, 100)])
def test_any_size_multiplies_as_it_should(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(columns, rows)
    layer = Int4Linear.of(plain)
    x = torch.randn(4, columns)
    exact = x.double().numpy() @ layer.dequantized().double().numpy().T + plain.bias.detach().double().numpy()
    assert np.allclose(layer(x).detach().numpy(), exact, atol=1e-4)
    assert layer.weight.shape == (rows, -(-columns // GROUP) * GROUP // 2)


def test_a_models_layers_take_five_bits_a_weight_and_what_is_around_them_eight() -> None:
    model = make_model(SHAPE, 0)
    plain = make_model(SHAPE, 0)
    quantize_language(model, "int4")
    layers = sum(t.numel() * t.element_size() for name, t in model.trunk.layers.state_dict().items() if "norm" not in name)
    before = sum(t.numel() for name, t in plain.trunk.layers.state_dict().items() if "norm" not in name)
    assert layers == before * 5 // 8
    assert isinstance(model.embedding, Int8Embedding)
    tokens = torch.randint(0, 300, (2, 12))
    assert (model.logits(tokens) - plain.logits(tokens)).norm() < 0.2 * plain.logits(tokens).norm()
