"""FLOPs of what is computed, counted as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COUNTED = 1
"""Version of what is counted, for those who keep it."""


def forward_flops(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products, convolutions, attention and LSTM layers of ``work``, two for each multiplication and addition,
    without gradients. Attention counts whole, causal or not."""
    counter = _Counter()
    with torch.no_grad(), counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """``torch.utils.flop_counter`` counts the same, but for attention on a CPU and recurrent layers, which it leaves out; it loads
    torch's compiler first, which takes seconds at the start of every run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it would load the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := _COUNTS.get(func.overloadpacket):
            self.total += count(found, *args)
        return found


def _product(out: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    """a (..., M, K), b (..., K, N)"""
    return 2 * a.numel() * b.shape[-1]


def _added_product(out: Tensor, start: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    return _product(out, a, b)


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    """Each number of ``out`` is the product of a window with one of ``weight``'s filters."""
    return 2 * out.numel() * weight[0].numel()


def _attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """query (B, H, T, C), key (B, K, L, C), value (B, K, L, V): the scores, and the sum of values."""
    B, H, T, C = query.shape
    return 2 * B * H * T * key.shape[2] * (C + value.shape[3])


def _recurrent(out: Any, x: Tensor, into: Tensor, around: Tensor, *_: Any) -> int:
    """One LSTM layer in one direction over ``x`` (T, B, D), with weights (4 H, D) and (4 H, H)."""
    return 2 * x.shape[0] * x.shape[1] * into.shape[0] * (into.shape[1] + around.shape[1])


_ATEN = torch.ops.aten
_COUNTS: dict[Any, Callable[..., int]] = {
    _ATEN.mm: _product, _ATEN.bmm: _product, _ATEN.addmm: _added_product, _ATEN.baddbmm: _added_product,
    _ATEN.convolution: _convolution,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention, _ATEN._scaled_dot_product_flash_attention: _attention,
    _ATEN._scaled_dot_product_efficient_attention: _attention, _ATEN._scaled_dot_product_cudnn_attention: _attention,
    _ATEN.mkldnn_rnn_layer: _recurrent,
}
