"""Whether compiled kernels compute a transformer's layers, and what all layers of one pass then have in common.

N tokens of D features, H query heads, K key heads, C features per head. Documents of one length that stand one behind the other are
a group (``apart.py``); full rows are one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.core.compiled import kernels_for
from treadle.core.native import Kernels
from treadle.model.layers.apart import Groups
from treadle.spec.shape import Shape

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
    def compact(self) -> bool:
        """Whether a kernel computes attention, which then keeps no weights."""
        return self.run.attends(self.kind, self.shape.head_dim)

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
    """For layers of ``x`` (B, T, D), where it may be; None: by torch's operations. So it is where nothing is learned, and where
    there are no kernels for it."""
    if not torch.is_grad_enabled() or x.dtype != torch.float32 or shape.head_dim > MOST_FEATURES:
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    run = kernels_for(x, kind)
    if run is None:
        return None
    rows, length = x.shape[:2]
    places = torch.arange(length).repeat(rows) if positions is None else positions.expand(rows, length).flatten()
    return Fusion(run, kind, shape, rope, places, [(rows, length)] if groups is None else groups)
