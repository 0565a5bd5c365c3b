"""Causal attention over groups of documents, from projections to what the output layer takes, and its way back.

A kernel does all of it where the processor multiplies pairs of bf16; elsewhere torch's products do, block by block of queries, with
softmax in a kernel. N tokens, H query heads, K key heads, C features per head, M = documents of a group times H.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from treadle.model.layers.fusion import Fusion
from treadle.spec.shape import QUERIES

Norm = Tensor | None
"""Weights (C,) of the norm of queries or keys."""


def fused_attend(common: Fusion, qkv: Tensor, q_norm: Norm, k_norm: Norm) -> tuple[Tensor, list[Tensor]]:
    """Projections (N, (H + 2 K) C) -> attended (N, H C), and what the way back needs: turned queries, keys and values of all heads,
    and each group's logarithms of sums or its blocks' weights. Scores are float32."""
    run, kind, (H, _, C), N = common.run, common.kind, common.heads, len(qkv)
    q, k, v = (common.empty(N * H * C) for _ in range(3))
    found, kept = common.empty(N, H * C), [q, k, v]
    for count, length, tokens, numbers in common.parts():
        M = count * H
        of_heads = [x[numbers].view(M, length, C) for x in (q, k, v)]
        exact = None if common.compact or kind == torch.float32 else torch.empty(2, M, length, C)
        _turn(common, count, length, tokens, qkv, q_norm, k_norm, of_heads, exact)
        heads = common.empty(M, length, C)
        if common.compact:
            logs = torch.empty(M, length)
            run("attention", kind, M, length, C, C**-0.5, *of_heads, heads, logs)
            kept.append(logs)
        else:
            queries, keys = of_heads[:2] if exact is None else exact
            kept += _by_products(common, queries, keys, of_heads[2], heads)
        run("join", kind, count, length, H, C, heads, found[tokens])
    return found, kept


def fused_attend_back(
    common: Fusion, grads: Tensor, attended: Tensor, qkv: Tensor, q_norm: Norm, k_norm: Norm, kept: list[Tensor]
) -> tuple[Tensor, Norm, Norm]:
    """grads (N, H C) -> those of the projections, and of the norms of queries and keys."""
    run, kind, (H, K, C), table = common.run, common.kind, common.heads, common.rope
    (q, k, v), rest = kept[:3], iter(kept[3:])
    dqkv = torch.empty_like(qkv)
    d_norms = [None if norm is None else torch.zeros_like(norm) for norm in (q_norm, k_norm)]
    for count, length, tokens, numbers in common.parts():
        M = count * H
        queries, keys, values = (x[numbers].view(M, length, C) for x in (q, k, v))
        heads = common.empty(M, length, C)
        run("part", kind, count, length, H, C, grads[tokens], heads)
        if common.compact:
            found, back = common.empty(M, length, C), torch.empty(3, M, length, C)
            run("part", kind, count, length, H, C, attended[tokens], found)
            run("attention_back", kind, M, length, C, C**-0.5, queries, keys, values, found, next(rest), heads, *back)
        else:
            back = _products_back(common, queries, keys, values, heads, rest)
        run(
            "heads_back", kind, count, length, H, K, C, *back, qkv[tokens], q_norm, k_norm, common.shape.norm_eps, table,
            table.shape[1], common.places[tokens], dqkv[tokens], *d_norms,
        )
    return dqkv, d_norms[0], d_norms[1]


def _turn(
    common: Fusion, count: int, length: int, tokens: slice, qkv: Tensor, q_norm: Norm, k_norm: Norm, into: list[Tensor],
    exact: Tensor | None,
) -> None:
    """A group's queries and keys, normed and turned, and its values, head by head; queries and keys in float32 too, where asked."""
    H, K, C = common.heads
    table, more = common.rope, (None, None) if exact is None else tuple(exact)
    common.run(
        "heads", common.kind, count, length, H, K, C, qkv[tokens], q_norm, k_norm, common.shape.norm_eps, table, table.shape[1],
        common.places[tokens], *into, *more,
    )


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Queries that are computed together: what they may see grows from one block to the next."""
    for first in range(0, length, QUERIES):
        yield first, min(first + QUERIES, length)


def _by_products(common: Fusion, queries: Tensor, keys: Tensor, values: Tensor, heads: Tensor) -> Iterator[Tensor]:
    """(M, T, C) three times -> ``heads`` (M, T, C); gives each block's weights."""
    M, length, C = queries.shape
    known = keys.transpose(1, 2)
    for first, last in _blocks(length):
        scores = torch.bmm(queries[:, first:last], known[:, :, :last])
        weights = common.empty(*scores.shape)
        common.run("softmax", common.kind, M, last - first, last, first, C**-0.5, scores, weights)
        heads[:, first:last] = torch.bmm(weights, values[:, :last])
        yield weights


def _products_back(
    common: Fusion, queries: Tensor, keys: Tensor, values: Tensor, grads: Tensor, blocks: Iterator[Tensor]
) -> Tensor:
    """grads (M, T, C) -> those of queries, keys and values (3, M, T, C), in float32."""
    M, length, C = queries.shape
    found = torch.zeros(3, M, length, C)
    dq, dk, dv = found
    for first, last in _blocks(length):
        weights, own = next(blocks), grads[:, first:last]
        dv[:, :last] += torch.bmm(weights.transpose(1, 2), own)
        back = torch.bmm(own, values[:, :last].transpose(1, 2))
        common.run("softmax_back", common.kind, M, last - first, last, first, C**-0.5, weights, back)
        dq[:, first:last] = torch.bmm(back, keys[:, :last])
        dk[:, :last] += torch.bmm(back.transpose(1, 2), queries[:, first:last])
    return found
