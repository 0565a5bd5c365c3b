"""int8 weights: the error is bounded by the scale, and both kernels compute the same product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import SHAPE
from treadle.model.layers.quantized import FEW_ROWS, Int8Embedding, Int8Linear, quantize_modules, quantize_rows
from treadle.model.model import make_model


@given(st.integers(0, 2**31 - 1), st.floats(1e-6, 1e4))
def test_each_weight_is_within_half_a_step(seed: int, size: float):
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed)) * size
    weight[3] = 0
    quantized, scale = quantize_rows(weight)
    back = quantized.double() * scale.double()[:, None]
    assert (back - weight.double()).abs().max(1).values.le(scale.double() * 0.5001).all()
    assert quantized.abs().max() <= 127
    assert not quantized[3].any()


def test_few_and_many_rows_agree():
    torch.manual_seed(0)
    layer = Int8Linear(64, 128)
    layer.weight, layer.weight_scale = quantize_rows(torch.randn(64, 128))
    x = torch.randn(FEW_ROWS + 1, 128)
    many, few = layer(x), torch.cat([layer(x[:FEW_ROWS]), layer(x[FEW_ROWS:])])
    exact = x.double().numpy() @ layer.dequantized().double().numpy().T
    assert np.allclose(many.numpy(), exact, atol=1e-4)
    assert np.abs(few.numpy() - exact).max() / np.abs(exact).max() < 0.01  # the kernel reads x and writes y as bf16


def test_every_matrix_is_replaced_and_a_quarter_of_the_size():
    model = make_model(SHAPE, 0)
    before = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert quantize_modules(model) == 7 * SHAPE.depth + 1
    after = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert after < 0.32 * before
    assert isinstance(model.embedding, Int8Embedding)
    tokens = torch.randint(0, 300, (2, 12))
    plain = make_model(SHAPE, 0).logits(tokens)
    assert (model.logits(tokens) - plain).norm() < 0.03 * plain.norm()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 12), (5, 13), (7, 31), (64, 33), (2, 64), (50, 130)])
def test_any_size_multiplies_as_it_should(rows: int, columns: int):
    """Some sizes made the kernel read past the end of the matrix, which ended the process."""
    layer = Int8Linear(rows, columns)
    layer.weight, layer.weight_scale = quantize_rows(torch.randn(rows, columns))
    for count in (1, 2, 5, 16, 17):
        x = torch.randn(count, columns)
        assert torch.allclose(layer(x), x @ layer.dequantized().T, atol=0.03 * columns**0.5)
