"""A transformer's layer with its way back written out: what stands between its matrix products takes one pass each, in C.

N tokens of D features, H query heads, K key heads, C features per head, F hidden features. Documents of one length that stand one
behind the other are a group (``apart.py``); full rows are one group. M = documents of a group times H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from treadle.core import native
from treadle.core.native import KINDS, Kernels
from treadle.model.layers.apart import Groups
from treadle.spec.shape import QUERIES, Shape

MOST_FEATURES = 256
"""Of a head: the kernels' MOST."""


@dataclass(frozen=True)
class Fusion:
    """What all layers of one pass have in common."""

    run: Kernels
    kind: torch.dtype
    """Of activations, and of what products take."""
    shape: Shape
    rope: Tensor  # (2, context, C)
    places: Tensor  # (N,) of each token in its document
    groups: Groups

    def empty(self, *size: int) -> Tensor:
        return torch.empty(*size, dtype=self.kind)

    @property
    def heads(self) -> tuple[int, int, int]:
        return self.shape.heads, self.shape.kv_heads, self.shape.head_dim

    def parts(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Of each group: documents, length, its tokens, its numbers among those of all heads."""
        first, each = 0, self.shape.heads * self.shape.head_dim
        for count, length in self.groups:
            last = first + count * length
            yield count, length, slice(first, last), slice(first * each, last * each)
            first = last


def fusion(x: Tensor, shape: Shape, rope: Tensor, positions: Tensor | None, groups: Groups | None) -> Fusion | None:
    """For layers of ``x`` (B, T, D), where it may be; None: by torch's operations. So it is where nothing is learned, on GPUs,
    where several threads share each operation, in fp16, and without a compiler."""
    if not torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32 or torch.get_num_threads() > 1:
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    if str(kind) not in KINDS or shape.head_dim > MOST_FEATURES:
        return None
    run = native.kernels()
    if run is None:
        return None
    rows, length = x.shape[:2]
    places = torch.arange(length).repeat(rows) if positions is None else positions.expand(rows, length).flatten()
    return Fusion(run, kind, shape, rope, places, [(rows, length)] if groups is None else groups)


def fused_layer(x: Tensor, common: Fusion, *weights: Tensor | None) -> Tensor:
    """x (B, T, D) float32 -> (B, T, D). ``weights``: of the norm before attention, queries, keys, values, output, the norms of
    queries and keys (or None), the norm before the feed-forward block, gate, up, down."""
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Layer.apply(x, common, *weights)  # type: ignore[no-untyped-call]
    return found


def fused_norm(x: Tensor, common: Fusion, weight: Tensor) -> Tensor:
    """x (B, T, D) float32 -> its root-mean-square norm (B, T, D), as products take it."""
    found: Tensor = _Norm.apply(x, common, weight)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, common: Fusion, weight: Tensor) -> Tensor:
        x = given.flatten(0, -2).contiguous()
        normed, scale = common.empty(*x.shape), torch.empty(len(x))
        common.run("norm", common.kind, *x.shape, x, None, weight, common.shape.norm_eps, None, normed, scale)
        ctx.save_for_backward(x, weight, scale)
        ctx.common = common
        return normed.view(given.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad, dx, d_weight = grads[0].reshape(x.shape).contiguous(), torch.zeros_like(x), torch.zeros_like(weight)
        ctx.common.run("norm_back", ctx.common.kind, *x.shape, grad, x, weight, scale, dx, d_weight, None)
        return dx.view(grads[0].shape), None, d_weight


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, common: Fusion, *weights: Tensor) -> Tensor:
        before, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm, after, gate, up, down = weights
        run, kind, eps = common.run, common.kind, common.shape.norm_eps
        x = given.flatten(0, -2).contiguous()
        N, D = x.shape
        F = len(gate)
        normed, scale = common.empty(N, D), torch.empty(N)
        run("norm", kind, N, D, x, None, before, eps, None, normed, scale)
        qkv_w, o_w, both_w, down_w = _joined(kind, q_proj, k_proj, v_proj), o_proj.to(kind), _joined(kind, gate, up), down.to(kind)
        qkv = normed @ qkv_w.t()
        attended, kept = _attend(common, qkv, q_norm, k_norm)
        middle, normed, scale2 = torch.empty_like(x), common.empty(N, D), torch.empty(N)
        run("norm", kind, N, D, x, attended @ o_w.t(), after, eps, middle, normed, scale2)
        both, product = normed @ both_w.t(), common.empty(N, F)
        run("swiglu", kind, N, F, both, product)
        ctx.save_for_backward(
            x, scale, qkv, attended, middle, scale2, both, qkv_w, o_w, both_w, down_w, before, q_norm, k_norm, after, *kept
        )
        ctx.common = common
        return torch.add(middle, product @ down_w.t()).view(given.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, scale, qkv, attended, middle, scale2, both, qkv_w, o_w, both_w, down_w, before, q_norm, k_norm, after, *kept = (
            ctx.saved_tensors
        )
        common: Fusion = ctx.common
        run, kind, (H, K, C) = common.run, common.kind, common.heads
        N, D = x.shape
        F = both.shape[1] // 2
        dx = grads[0].reshape(N, D).clone(memory_format=torch.contiguous_format)
        low = dx.to(kind)
        product = low @ down_w  # its gradient, until it is the product again
        dboth, normed = torch.empty_like(both), common.empty(N, D)
        run("swiglu_back", kind, N, F, product, both, dboth)
        run("norm_again", kind, N, D, middle, after, scale2, normed)
        d_down, d_both, d_after = (low.t() @ product).float(), (dboth.t() @ normed).float(), torch.zeros_like(after)
        low = common.empty(N, D)
        run("norm_back", kind, N, D, dboth @ both_w, middle, after, scale2, dx, d_after, low)
        d_output = (low.t() @ attended).float()
        dqkv, d_q_norm, d_k_norm = _attend_back(common, low @ o_w, qkv, q_norm, k_norm, kept)
        run("norm_again", kind, N, D, x, before, scale, normed)
        d_qkv, d_before = (dqkv.t() @ normed).float(), torch.zeros_like(before)
        run("norm_back", kind, N, D, dqkv @ qkv_w, x, before, scale, dx, d_before, None)
        attention = (d_before, *_split(d_qkv, H * C, K * C, K * C), d_output, d_q_norm, d_k_norm)
        return dx.view(grads[0].shape), None, *attention, d_after, *_split(d_both, F, F), d_down


def _joined(kind: torch.dtype, *weights: Tensor) -> Tensor:
    """One matrix of several that have the same input."""
    return torch.cat([weight.to(kind) for weight in weights])


def _split(joined: Tensor, *rows: int) -> tuple[Tensor, ...]:
    return torch.split(joined, list(rows))


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Queries that are computed together: what they may see grows from one block to the next."""
    for first in range(0, length, QUERIES):
        yield first, min(first + QUERIES, length)


def _attend(common: Fusion, qkv: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Projections (N, (H + 2 K) C) -> attended (N, H C), and what the way back needs: turned queries, keys and values of all heads,
    and each block's weights. Scores are float32."""
    run, kind, (H, K, C), table = common.run, common.kind, common.heads, common.rope
    eps, N = common.shape.norm_eps, len(qkv)
    q, k, v = (common.empty(N * H * C) for _ in range(3))
    found, kept = common.empty(N, H * C), [q, k, v]
    for count, length, tokens, numbers in common.parts():
        M = count * H
        queries, keys, values = (x[numbers].view(M, length, C) for x in (q, k, v))
        exact = (None, None) if kind == torch.float32 else (torch.empty(M, length, C), torch.empty(M, length, C))
        run(
            "heads", kind, count, length, H, K, C, qkv[tokens], q_norm, k_norm, eps, table, table.shape[1], common.places[tokens],
            queries, keys, values, *exact,
        )
        asking, known = (queries, keys) if exact[0] is None or exact[1] is None else exact
        known, heads = known.transpose(1, 2), common.empty(M, length, C)
        for first, last in _blocks(length):
            scores = torch.bmm(asking[:, first:last], known[:, :, :last])
            weights = common.empty(*scores.shape)
            run("softmax", kind, M, last - first, last, first, C**-0.5, scores, weights)
            heads[:, first:last] = torch.bmm(weights, values[:, :last])
            kept.append(weights)
        run("join", kind, count, length, H, C, heads, found[tokens])
    return found, kept


def _attend_back(
    common: Fusion, grads: Tensor, qkv: Tensor, q_norm: Tensor | None, k_norm: Tensor | None, kept: list[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """grads (N, H C) -> those of the projections, and of the norms of queries and keys."""
    run, kind, (H, K, C), table = common.run, common.kind, common.heads, common.rope
    (q, k, v), blocks = kept[:3], iter(kept[3:])
    dqkv = torch.empty_like(qkv)
    d_norms = [None if norm is None else torch.zeros_like(norm) for norm in (q_norm, k_norm)]
    for count, length, tokens, numbers in common.parts():
        M = count * H
        queries, keys, values = (x[numbers].view(M, length, C) for x in (q, k, v))
        heads, dq = common.empty(M, length, C), torch.empty(M, length, C)
        dk, dv = torch.zeros(2, M, length, C)
        run("part", kind, count, length, H, C, grads[tokens], heads)
        for first, last in _blocks(length):
            weights, own = next(blocks), heads[:, first:last]
            dv[:, :last] += torch.bmm(weights.transpose(1, 2), own)
            back = torch.bmm(own, values[:, :last].transpose(1, 2))
            run("softmax_back", kind, M, last - first, last, first, C**-0.5, weights, back)
            dq[:, first:last] = torch.bmm(back, keys[:, :last])
            dk[:, :last] += torch.bmm(back.transpose(1, 2), queries[:, first:last])
        run(
            "heads_back", kind, count, length, H, K, C, dq, dk, dv, qkv[tokens], q_norm, k_norm, common.shape.norm_eps, table,
            table.shape[1], common.places[tokens], dqkv[tokens], *d_norms,
        )
    return dqkv, d_norms[0], d_norms[1]
