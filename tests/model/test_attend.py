"""Attention by products, in bf16 on a processor: as near to float64 as torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from treadle.model.layers import attend as module
from treadle.model.layers.attend import attend


def inputs(rows: int, heads: int, shared: int, queries: int, keys: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(rows, *of, size).bfloat16() for of in ((heads, queries), (shared, keys), (shared, keys)))
    return q, k, v


def with_gradients(given: tuple[Tensor, ...], kind: torch.dtype, grad: Tensor, **how: object) -> list[Tensor]:
    q, k, v = (x.to(kind).requires_grad_() for x in given)
    y = attend(q, k, v, **how)  # type: ignore[arg-type]
    return [x.double() for x in (y.detach(), *torch.autograd.grad(y, [q, k, v], grad.to(kind)))]


@pytest.mark.parametrize(("sizes", "causal", "padded"), [
    ((3, 4, 2, 17, 17, 8), True, False), ((3, 4, 4, 17, 17, 8), False, True), ((2, 4, 1, 33, 33, 16), False, False),
    ((2, 2, 2, 5, 30, 16), False, True), ((2, 2, 2, 1, 1, 16), True, False),
])
def test_it_is_as_near_to_float64_as_torchs(sizes: tuple[int, ...], causal: bool, padded: bool, monkeypatch: pytest.MonkeyPatch):
    given = inputs(*sizes)
    look = torch.arange(sizes[4]) < torch.arange(2, 2 + sizes[0])[:, None, None, None] if padded else None
    grad = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = with_gradients(given, torch.float64, grad, look=look, causal=causal)
    asked = []
    monkeypatch.setattr(module._Products, "apply", lambda *x, old=module._Products.apply: asked.append(1) or old(*x))
    ours = with_gradients(given, torch.bfloat16, grad, look=look, causal=causal)
    assert asked == [1]
    monkeypatch.setattr(module, "_FEW", 0)
    theirs = with_gradients(given, torch.bfloat16, grad, look=look, causal=causal)
    assert asked == [1]
    for one, two, three in zip(ours, theirs, exact, strict=True):
        assert (one - three).norm() <= 1.5 * (two - three).norm() + 1e-6


def test_a_position_that_may_look_at_none_gets_nothing():
    given = inputs(2, 2, 2, 3, 3, 8)
    look = torch.tensor([True, False])[:, None, None, None].expand(2, 1, 1, 3)
    found = with_gradients(given, torch.bfloat16, torch.ones(2, 2, 3, 8), look=look)
    for part in found:
        assert not part[1].any()
        assert torch.isfinite(part).all()


def test_elsewhere_it_is_torchs_to_the_bit():
    given = inputs(2, 4, 2, 9, 9, 8)
    q, k, v = (x.float().requires_grad_() for x in given)
    assert torch.equal(attend(q, k, v, causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    with torch.no_grad():
        assert torch.equal(attend(*given), F.scaled_dot_product_attention(*given, enable_gqa=True))
    torch.manual_seed(3)
    ours = attend(*(x.requires_grad_() for x in given), dropout=0.5)
    torch.manual_seed(3)
    assert torch.equal(ours, F.scaled_dot_product_attention(*given, enable_gqa=True, dropout_p=0.5))
