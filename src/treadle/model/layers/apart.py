"""Causal attention of documents none of which looks at another.

Documents of one length are computed at once, without padding and without a mask, which costs less than one large attention with a
mask (docs/experiments.md). B rows of T positions, N = B T; H query heads, K key heads, C features per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.model.layers.attend import attend

Groups = Sequence[tuple[int, int]]
"""Documents that stand one behind the other, all of a length together: how many, and of how many tokens each."""


def by_length(places: Tensor) -> tuple[Tensor, Groups]:
    """``places`` (B, T): each token's place in its document, 0 at the beginning of each row -> in which order (N,) the tokens
    of all rows stand as groups."""
    flat = places.flatten()
    firsts = (flat == 0).nonzero()[:, 0]
    lengths = torch.diff(firsts, append=firsts.new_tensor([len(flat)]))
    lengths, documents = lengths.sort(stable=True)
    behind = torch.arange(len(flat), device=flat.device)
    order = behind + (firsts[documents] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
    counts = lengths.bincount()
    sizes = counts.nonzero()[:, 0]
    return order, list(zip(counts[sizes].tolist(), sizes.tolist(), strict=True))


def attend_apart(q: Tensor, k: Tensor, v: Tensor, groups: Groups, dropout: float) -> list[Tensor]:
    """q (1, H, N, C), k and v (1, K, N, C) -> of each group (its tokens, H C)"""
    sizes = [count * length for count, length in groups]
    found = []
    for group, *parts in zip(groups, *(torch.split(x[0], sizes, 1) for x in (q, k, v)), strict=True):
        one, two, three = (part.unflatten(1, group).transpose(0, 1) for part in parts)  # (count, H or K, length, C)
        y = attend(one, two, three, None, group[1] > 1, dropout)
        found.append(y.transpose(1, 2).flatten(2).flatten(0, 1))
    return found
