"""Linear layers in 8 bits, on GPUs that multiply so (Micikevicius et al. 2022). M rows, K features in, N features out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
"""Three bits of fraction for weights and features, two and more range for gradients (section 3)."""
_MULTIPLE = 16
"""Of all sizes, as the hardware wants it."""


class Fp8(TorchFunctionMode):
    """In it, where gradients are taken, linear layers whose sizes allow it multiply in 8 bits, forward and backward; each tensor is
    scaled to the format's largest number. What cannot, and all else, is left to what stands around it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.linear or kwargs or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        x, weight, *bias = args
        if any(size % _MULTIPLE for size in (x.numel() // x.shape[-1], *weight.shape)):
            return func(*args)
        y = _Product.apply(x.reshape(-1, x.shape[-1]), weight).unflatten(0, x.shape[:-1])  # type: ignore[no-untyped-call]
        return y if not bias or bias[0] is None else y + bias[0].to(y.dtype)


class _Product(torch.autograd.Function):
    """x (M, K), weight (N, K) -> (M, N), bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        left, right = _cast(x, FORWARD), _cast(weight, FORWARD)
        ctx.save_for_backward(*left, *right)
        ctx.dtypes = (x.dtype, weight.dtype)
        return _product(left, right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        grad, scale = _cast(grads[0], BACKWARD)
        dx = _product((grad, scale), (weight.t().contiguous(), weight_scale))
        dw = _product((grad.t().contiguous(), scale), (x.t().contiguous(), x_scale))
        return dx.to(ctx.dtypes[0]), dw.to(ctx.dtypes[1])


def _cast(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """And what it is to be multiplied by."""
    scale = (x.abs().amax().float() / torch.finfo(dtype).max).clamp_min(1e-30)
    return (x.float() / scale).to(dtype), scale


def _product(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
    """left (M, K), right (N, K) -> left right', bf16."""
    return torch._scaled_mm(left[0], right[0].t(), scale_a=left[1], scale_b=right[1], out_dtype=torch.bfloat16)
