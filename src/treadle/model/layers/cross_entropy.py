"""Cross-entropy over a large vocabulary, without ever holding all scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from treadle.core.compiled import kernels_for
from treadle.spec.shape import SCORES_HELD


def cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor) -> Tensor:
    """The sum of ``shares`` times the surprise (nats) at ``targets`` where scores are ``x weight' + bias``.

    x (N, D), weight (V, D), bias (V,), targets (N,) int64, shares (N,) float32; all three of the first may need gradients. Products
    are in autocast's precision, sums in float32. Gradients are computed on the way forward, chunk by chunk, so that the memory of
    (N, V) scores is not needed (as Wijmans et al. 2025, section 4, hold no scores); a second derivative is not. In fp16
    they are of shares as parts of the largest one: of small shares themselves most would be 0, since the loss is scaled later.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    found: Tensor = _Chunked.apply(x, weight, bias, targets, shares, dtype)  # type: ignore[no-untyped-call]
    return found


def row_shares(asked: Tensor) -> Tensor:
    """asked (B, T), True where a position counts -> shares (B, T): each row that has one weighs alike, and in it each of them."""
    counts = asked.sum(1, keepdim=True)
    return (1.0 / (counts.clamp_min(1) * (counts > 0).sum().clamp_min(1))).expand(asked.shape)


_TINY = 1e-30  # a share, where all are 0


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor, dtype: torch.dtype
    ) -> Tensor:
        learns, sums_in = any(ctx.needs_input_grad), torch.promote_types(dtype, torch.float32)
        into, matrix = x.to(dtype), weight.to(dtype)
        dx = torch.empty_like(into) if learns else None
        dw = torch.zeros_like(weight, dtype=sums_in) if learns else None
        db = torch.zeros_like(bias, dtype=sums_in) if learns and bias is not None else None
        total = torch.zeros((), dtype=sums_in, device=x.device)
        largest = shares.amax().clamp_min(_TINY) if dtype == torch.float16 and len(x) else None
        run = kernels_for(x, dtype) if bias is None and shares.dtype == torch.float32 else None
        rows = max(64, SCORES_HELD // len(weight) * (4 // dtype.itemsize if run else 1))
        for first in range(0, len(x), rows):
            chunk = slice(first, first + rows)
            scores, right, share = F.linear(into[chunk], matrix), targets[chunk, None], shares[chunk, None]
            if run:
                surprise = torch.zeros(1, dtype=torch.float64)
                run("surprise", dtype, *scores.shape, scores, right.contiguous(), share.contiguous(), int(learns), surprise)
                total += surprise[0]
            else:
                scores = scores.to(sums_in)
                total += _surprise(scores, bias, right, share, (share if largest is None else share / largest) if learns else None)
                if db is not None:
                    db += scores.sum(0)
            if dx is not None and dw is not None:
                back = scores.to(dtype)
                torch.mm(back, matrix, out=dx[chunk])
                if dtype == dw.dtype:
                    dw.addmm_(back.t(), into[chunk])
                else:
                    dw += back.t() @ into[chunk]
        ctx.save_for_backward(dx, dw, db, largest)
        ctx.dtypes = (x.dtype, weight.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dx, dw, db, largest = ctx.saved_tensors
        grad = grads[0] if largest is None else grads[0] * largest
        db = None if db is None else db.mul_(grad)
        return dx.mul_(grad).to(ctx.dtypes[0]), dw.mul_(grad).to(ctx.dtypes[1]), db, None, None, None


def _surprise(scores: Tensor, bias: Tensor | None, right: Tensor, share: Tensor, back: Tensor | None) -> Tensor:
    """Of scores (n, V) without their bias the sum of ``share`` (n, 1) times the surprise at ``right`` (n, 1); in the scores' place
    the gradients of such a sum with the shares ``back`` (n, 1), where they are given."""
    if bias is not None:
        scores += bias
    scores.sub_(scores.amax(1, keepdim=True))
    hit = scores.gather(1, right)
    sums = scores.exp_().sum(1, keepdim=True)
    if back is not None:
        scores.mul_(back / sums)
        scores.scatter_add_(1, right, -back.to(scores.dtype))
    return ((sums.log() - hit) * share).sum()
