"""What a model has read so far in each of several slots: keys and values of a transformer, or the state of a recurrent net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.core.errors import WorkError
from treadle.model.layers.attention import LayerCache
from treadle.model.model import LanguageModel
from treadle.model.network import Network
from treadle.spec.shape import Shape

ENDLESS = 1_000_000
"""Tokens that a recurrent net may read and write: its state does not grow."""

TextModel = LanguageModel | Network


@dataclass(frozen=True)
class Part:
    """``tokens`` that a slot reads, of whose last ``asked`` the scores of what follows are wanted."""

    slot: int
    tokens: list[int]
    asked: int = 1


class Memory(ABC):
    """What a model has read so far in each of several slots."""

    def __init__(self, slots: int, context: int) -> None:
        self.lengths = [0] * slots
        self.context = context
        """Most tokens of a slot."""

    def clear(self, slot: int) -> None:
        self.lengths[slot] = 0

    @property
    def drafts(self) -> bool:
        """Whether more than one token of an answer may be read at once, and taken back."""
        return False

    @property
    def has_weights(self) -> bool:
        """Whether it has weights of its own, so that the model that it was made for may lose its."""
        return False

    def admit(self, slot: int, tokens: Sequence[int], most: int, adapter: int = -1, reader: str = "") -> int | None:
        """Give ``slot`` to a text that begins with ``tokens`` and has at most ``most`` in the end, read with the ``adapter`` of
        that place; -1: none. Gives how many are known already, since ``reader`` had them read before, of which none need be read;
        None: there is no room as yet."""
        assert adapter < 0, "only a decoder has adapters"
        self.clear(slot)
        return 0

    def release(self, slot: int) -> None:
        """The text of ``slot`` is done."""
        self.clear(slot)

    @abstractmethod
    def read_parts(self, model: TextModel, parts: Sequence[Part]) -> Tensor:
        """Each slot at most once; the scores (A, V) that are asked for, in order."""

    def take_back(self, slot: int, count: int) -> None:
        """Forget the last ``count`` tokens of ``slot``."""
        raise NotImplementedError

    def go_back(self, slot: int, length: int) -> None:
        """Forget what ``slot`` read behind its first ``length`` tokens, in a reading that failed. Raises ``WorkError`` where that
        cannot be told from what it had read before."""
        self.lengths[slot] = length


class Rows(Memory):
    """One that reads as many tokens into each of several slots."""

    @abstractmethod
    def read(self, model: TextModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Read ``tokens`` (B, T) into the rows ``slots`` (ascending, distinct) behind their ``lengths``; gives the scores (B, V) of
        what follows."""

    def read_parts(self, model: TextModel, parts: Sequence[Part]) -> Tensor:
        single = sorted((part for part in parts if len(part.tokens) == 1 and part.asked), key=lambda part: part.slot)
        found: dict[int, Tensor] = {}
        if single:
            scores = advance(model, self, [part.slot for part in single], torch.tensor([part.tokens for part in single]))
            found = {part.slot: row[None] for part, row in zip(single, scores, strict=True)}
        for part in parts:
            if part.slot not in found:
                assert part.asked <= 1
                scores = advance(model, self, [part.slot], torch.tensor([part.tokens]))
                found[part.slot] = scores[: part.asked]
        return torch.cat([found[part.slot] for part in parts])


class Cache(Rows):
    """Keys and values of up to ``slots`` sequences of up to ``context`` tokens each."""

    def __init__(self, shape: Shape, slots: int) -> None:
        super().__init__(slots, shape.context)
        size = (shape.depth, slots, shape.kv_heads, shape.context, shape.head_dim)
        self.keys, self.values = torch.zeros(size), torch.zeros(size)

    def views(self, slots: Sequence[int], count: int) -> tuple[list[LayerCache], Tensor]:
        """Each layer's view for ``count`` new positions of ``slots``, and the positions (B, count)."""
        starts = torch.tensor([self.lengths[slot] for slot in slots])
        positions = starts[:, None] + torch.arange(count)  # (B, T)
        length = int(positions[:, -1].max()) + 1
        assert length <= self.context, f"{length} positions do not fit a context of {self.context}"
        visible = torch.arange(length) <= positions[:, :, None]  # (B, T, L)
        fresh = count == length  # every row starts at 0: plain causal attention, which has the faster kernel
        mask = None if fresh or bool(visible.all()) else visible[:, None]
        low, high = min(slots), max(slots) + 1
        rows = torch.tensor(slots)[:, None] - low
        views = []
        for keys, values in zip(self.keys, self.values, strict=True):
            # Slots are handed out lowest first, so a slice nearly always is exactly the rows that take part.
            k, v = keys[low:high, :, :length], values[low:high, :, :length]
            views.append(LayerCache(k, v, (rows, positions), mask))
        return views, positions

    def read(self, model: TextModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        assert isinstance(model, LanguageModel)
        if len(slots) == max(slots) - min(slots) + 1:
            return self._read_block(model, slots, tokens)
        parts, start = [], 0  # gaps between the rows: one block for each unbroken stretch
        for index in range(1, len(slots) + 1):
            if index == len(slots) or slots[index] != slots[index - 1] + 1:
                parts.append(self._read_block(model, slots[start:index], tokens[start:index]))
                start = index
        return torch.cat(parts)

    def _read_block(self, model: LanguageModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        caches, positions = self.views(slots, tokens.shape[1])
        hidden = model.hidden(tokens, positions, caches)
        return model.scores(hidden[:, -1:])[:, 0]


class States(Rows):
    """The state of a recurrent net in each slot."""

    def __init__(self, model: Network, slots: int) -> None:
        super().__init__(slots, ENDLESS)
        self.states = model.blank(slots)

    def clear(self, slot: int) -> None:
        super().clear(slot)
        for state in self.states:
            state[:, slot] = 0

    def go_back(self, slot: int, length: int) -> None:
        if self.lengths[slot] != length:
            raise WorkError(f"the state behind {length} tokens is gone: {self.lengths[slot] - length} more were read into it")

    def read(self, model: TextModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        assert isinstance(model, Network)
        rows = list(slots)
        scores, after = model.carry(tokens, tuple(state[:, rows] for state in self.states))
        for state, new in zip(self.states, after, strict=True):
            state[:, rows] = new
        return scores


@torch.inference_mode()
def advance(model: TextModel, memory: Rows, slots: Sequence[int], tokens: Tensor) -> Tensor:
    """Read ``tokens`` (B, T) into the rows ``slots`` (ascending, distinct), and give the scores (B, V) float32 of what follows.

    All rows take the same number of new tokens; each continues at its own length, which grows by T.
    """
    assert list(slots) == sorted(set(slots)), "slots ascend and are distinct"
    scores = memory.read(model, slots, tokens)
    for slot in slots:
        memory.lengths[slot] += tokens.shape[1]
    return scores.float()
