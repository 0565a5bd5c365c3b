"""What a model has read so far in each of several slots: keys and values of a transformer, or the state of a recurrent net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.core.errors import WorkError
from treadle.model.model import LanguageModel
from treadle.model.network import Network

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


class States(Memory):
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

    def read_parts(self, model: TextModel, parts: Sequence[Part]) -> Tensor:
        """Those of one token each together, each of the others alone."""
        single = sorted((part for part in parts if len(part.tokens) == 1 and part.asked), key=lambda part: part.slot)
        found: dict[int, Tensor] = {}
        if single:
            scores = self._read(model, [part.slot for part in single], torch.tensor([part.tokens for part in single]))
            found = {part.slot: row[None] for part, row in zip(single, scores, strict=True)}
        for part in parts:
            if part.slot not in found:
                assert part.asked <= 1
                found[part.slot] = self._read(model, [part.slot], torch.tensor([part.tokens]))[: part.asked]
        return torch.cat([found[part.slot] for part in parts])

    @torch.inference_mode()
    def _read(self, model: TextModel, slots: list[int], tokens: Tensor) -> Tensor:
        """Read ``tokens`` (B, T) into ``slots``, ascending and distinct; gives the scores (B, V) float32 of what follows."""
        assert isinstance(model, Network)
        scores, after = model.carry(tokens, tuple(state[:, slots] for state in self.states))
        for state, new in zip(self.states, after, strict=True):
            state[:, slots] = new
        for slot in slots:
            self.lengths[slot] += tokens.shape[1]
        return scores.float()
