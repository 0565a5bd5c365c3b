"""Pooling and ReLU in one kernel: torch's values and gradients, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from treadle.core import native
from treadle.model.layers import halving
from treadle.model.layers.halving import HalvedRelu


@pytest.fixture(autouse=True)
def _compiled():
    if native.compiler() is None:
        pytest.skip("needs a C compiler")


def taken(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """By the kernel."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", lambda *given: pytest.fail("by torch"))
        y = HalvedRelu()(x)
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


def expected(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = F.relu(F.max_pool2d(x, 2))
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@given(st.integers(1, 3), st.integers(1, 40), st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**31 - 1))
def test_it_is_torchs_to_the_bit(kind: torch.dtype, rows: int, channels: int, high: int, wide: int, seed: int):
    """Small whole numbers, of which many are alike."""
    torch.manual_seed(seed)
    x = torch.randint(-3, 4, (rows, channels, high, wide)).to(kind)
    dy = torch.randn(rows, channels, high // 2, wide // 2).to(kind)
    for ours, theirs in zip(taken(x, dy), expected(x, dy), strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_what_is_not_a_number_stays_so():
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0, 1, 0] = torch.nan
    y, _ = taken(x, torch.ones(1, 2, 1, 1))
    assert torch.isnan(y[0, 0])
    assert y[0, 1] == 0


def test_several_threads_and_what_learns_nothing_are_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(halving._HalvedRelu, "apply", lambda *given: pytest.fail("by the kernel"))
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    assert torch.equal(HalvedRelu()(x), F.relu(F.max_pool2d(x, 2)))
    torch.set_num_threads(2)
    try:
        HalvedRelu()(x.clone().requires_grad_())
    finally:
        torch.set_num_threads(1)
