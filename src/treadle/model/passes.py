"""What a decoder reads in one pass, of any texts at once, and the pages that their keys and values lie in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.model.adapter import Adapter
from treadle.spec.shape import Shape

PAGE = 16
"""Places of a page: the kernel's PAGE."""


@dataclass(frozen=True)
class Pass:
    """What one pass reads: of each token (N,) its id, its place in its text, and the text's row in ``table``."""

    ids: Sequence[int]
    places: Sequence[int]
    texts: Sequence[int]
    table: Tensor
    """(R, P) int64: the pages of each text, in order."""
    which: Sequence[int]
    """Tokens (A,) for which the scores of what follows are asked."""
    adapters: Sequence[int] = ()
    """The place among ``Decoder.adapters`` of each text's (R,), -1 where it has none; where left out, no text has one."""


class Pages:
    """Room for the keys and values of ``count`` times ``PAGE`` places: in float32 where the weights are, else in bf16."""

    def __init__(self, shape: Shape, kind: torch.dtype, count: int, device: torch.device | None = None) -> None:
        """With whatever lay there, on ``device``; None: on the processor."""
        self.count, held = count, _held(kind)
        self.keys = torch.empty(shape.depth, count, shape.kv_heads, shape.head_dim, PAGE, dtype=held, device=device)
        self.values = torch.empty(shape.depth, count, shape.kv_heads, PAGE, shape.head_dim, dtype=held, device=device)

    @staticmethod
    def size(shape: Shape, kind: torch.dtype) -> int:
        """Bytes of one page."""
        return 2 * shape.depth * shape.kv_heads * shape.head_dim * PAGE * _held(kind).itemsize


def _held(kind: torch.dtype) -> torch.dtype:
    return torch.float32 if kind == torch.float32 else torch.bfloat16


class Decoder(ABC):
    """Reads N tokens of any texts at once. Each token's result follows from its text alone, to the last bit: not from what else is
    computed beside it, nor from how its text came in pieces."""

    shape: Shape
    kind: torch.dtype
    """Of the layers' weights, as they are multiplied."""
    adapters: Sequence[Adapter]
    has_weights = False
    """Whether it has weights of its own, so that the model that it was made for may lose its."""

    @abstractmethod
    def pages(self, count: int) -> Pages:
        """Empty ones, where it reads and writes them."""

    @abstractmethod
    def read(self, given: Pass, pages: Pages) -> Tensor:
        """Scores (A, V) float32, on the processor. Raises ``MemoryError``, or what torch raises where memory is short."""

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, V), as ``LanguageModel.logits`` gives them."""
        rows, length = tokens.shape
        each = -(-length // PAGE)
        table = torch.arange(rows * each).view(rows, each)
        texts = torch.arange(rows).repeat_interleave(length).tolist()
        given = Pass(tokens.flatten().tolist(), [*range(length)] * rows, texts, table, range(rows * length))
        return self.read(given, self.pages(rows * each)).view(rows, length, -1)
