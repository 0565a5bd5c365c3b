"""Linear layers in 8 bits beside numbers rounded by hand in float64. The products run on any processor, slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_loop import run

from treadle.core.errors import UserError
from treadle.core.fp8 import Fp8
from treadle.core.runtime import Runtime, choose_precision


def rounded(x: torch.Tensor, bits: int, lowest: int, top: float) -> Any:
    """Scaled so that the largest is ``top``, to ``bits`` of fraction and no finer than at 2^lowest (Micikevicius et al. 2022, table
    1), and scaled back."""
    y = x.detach().double().numpy()
    scale = np.abs(y).max() / top
    exponent = np.maximum(np.floor(np.log2(np.abs(y / scale) + 1e-300)), lowest)
    step = 2.0 ** (exponent - bits)
    return np.round(y / scale / step) * step * scale


@pytest.mark.parametrize("biased", [True, False])
def test_products_and_gradients_are_those_of_rounded_numbers(biased: bool):
    draw = torch.Generator().manual_seed(0)
    sizes = (((4, 8, 48), 3.0), ((16, 48), 0.1), ((4, 8, 16), 1e-4))
    x, weight, grad = (torch.randn(shape, generator=draw) * size for shape, size in sizes)
    bias = torch.randn(16, generator=draw) if biased else None
    x.requires_grad_()
    weight.requires_grad_()
    with Fp8():
        y = F.linear(x, weight, bias)
    y.backward(grad.bfloat16())
    e4m3, e5m2 = (3, -6, 448.0), (2, -14, 57344.0)
    features, matrix = rounded(x, *e4m3).reshape(-1, 48), rounded(weight, *e4m3)
    back = rounded(grad.bfloat16(), *e5m2).reshape(-1, 16)
    assert x.grad is not None
    assert weight.grad is not None
    exact = features @ matrix.T + (bias.double().numpy() if bias is not None else 0)
    for ours, theirs in ((y, exact), (x.grad, back @ matrix), (weight.grad, back.T @ features)):
        found = ours.detach().double().numpy().reshape(theirs.shape)
        np.testing.assert_allclose(found, theirs, rtol=0.01, atol=0.004 * np.abs(theirs).max())
    plain = F.linear(x, weight, bias)
    assert 0.001 < float(((y - plain).norm() / plain.norm()).detach()) < 0.1


def test_what_has_other_sizes_or_needs_no_gradient_is_left_alone():
    x, weight = torch.randn(16, 32), torch.randn(20, 32, requires_grad=True)
    even = torch.randn(16, 32, requires_grad=True)
    with Fp8():
        assert torch.equal(F.linear(x, weight), x @ weight.T)
        assert torch.equal(F.linear(x[:3], even), x[:3] @ even.T)
        with torch.no_grad():
            assert torch.equal(F.linear(x, even), F.linear(x, even.detach()))
        assert F.linear(x, even).dtype == torch.bfloat16


@pytest.mark.usefixtures("no_kernels")  # which a processor would take instead
def test_the_curve_is_that_of_float32_within_a_band(tmp_path: Path):
    found = {}
    for precision in ("float32", "bf16", "fp8"):
        runtime = Runtime(torch.device("cpu"), precision, 1, "tried")
        found[precision] = [step.loss for step in run(tmp_path / precision, budget="20 steps", runtime=runtime)[1].steps]
    assert found["fp8"] == pytest.approx(found["float32"], rel=0.05)
    assert found["fp8"] != found["bf16"]


def test_it_is_refused_where_it_cannot_be_computed(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"fp8 needs a GPU of compute capability 8\.9 or more, and this cpu is none") as caught:
        choose_precision("fp8", torch.device("cpu"))
    assert "precision: auto" in caught.value.cure
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="this cuda is none"):
        choose_precision("fp8", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("fp8", torch.device("cuda")) == ("fp8", "given")
    assert choose_precision("auto", torch.device("cuda"))[0] == "bf16"
