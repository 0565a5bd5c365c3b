"""Generation with a memory of what was read, for one sequence or many at once: keys and values of a transformer, or the state of a
recurrent net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from treadle.core.machine import threads
from treadle.model.layers.attention import LayerCache
from treadle.model.model import LanguageModel
from treadle.model.network import Network
from treadle.spec.shape import Shape

SMALL = 20_000_000
"""Parameters below which one thread generates."""


ENDLESS = 1_000_000
"""Tokens that a recurrent net may read and write: its state does not grow."""

TextModel = LanguageModel | Network


class Memory(ABC):
    """What a model has read so far in each of several slots."""

    def __init__(self, slots: int, context: int) -> None:
        self.lengths = [0] * slots
        self.context = context
        """Most tokens of a slot."""

    def clear(self, slot: int) -> None:
        self.lengths[slot] = 0

    @abstractmethod
    def read(self, model: TextModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Read ``tokens`` (B, T) into the rows ``slots`` (ascending, distinct) behind their ``lengths``; gives the scores (B, V) of
        what follows."""


class Cache(Memory):
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


class States(Memory):
    """The state of a recurrent net in each slot."""

    def __init__(self, model: Network, slots: int) -> None:
        super().__init__(slots, ENDLESS)
        self.states = model.blank(slots)

    def clear(self, slot: int) -> None:
        super().clear(slot)
        for state in self.states:
            state[:, slot] = 0

    def read(self, model: TextModel, slots: Sequence[int], tokens: Tensor) -> Tensor:
        assert isinstance(model, Network)
        rows = list(slots)
        scores, after = model.carry(tokens, tuple(state[:, rows] for state in self.states))
        for state, new in zip(self.states, after, strict=True):
            state[:, rows] = new
        return scores


def make_memory(model: TextModel, slots: int) -> Memory:
    """An empty memory for ``slots`` sequences."""
    return Cache(model.shape, slots) if isinstance(model, LanguageModel) else States(model, slots)


def generation_threads(model: TextModel) -> int:
    """Threads to generate with: one for a model whose products are over in microseconds. There a second thread gains nothing, and
    on a busy machine each product waits for it a whole time slice of the scheduler, which was measured to be 1,000 times longer."""
    return 1 if model.parameter_count < SMALL else threads()


@torch.inference_mode()
def advance(model: TextModel, memory: Memory, slots: Sequence[int], tokens: Tensor) -> Tensor:
    """Read ``tokens`` (B, T) into the rows ``slots`` (ascending, distinct), and give the scores (B, V) float32 of what follows.

    All rows take the same number of new tokens; each continues at its own length, which grows by T.
    """
    assert list(slots) == sorted(set(slots)), "slots ascend and are distinct"
    scores = memory.read(model, slots, tokens)
    for slot in slots:
        memory.lengths[slot] += tokens.shape[1]
    return scores.float()


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token from ``logits`` (V,): the likeliest at temperature 0, else from the smallest set of tokens whose probability
    reaches ``top_p`` (Holtzman et al. 2020)."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        keep = ordered.cumsum(0) - ordered < top_p  # the token that crosses the mark stays in
        probabilities = torch.zeros_like(probabilities).scatter_(0, order[keep], ordered[keep])
    return int(torch.multinomial(probabilities, 1, generator=generator))


def generate(
    model: TextModel, prompt: Sequence[int], max_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
    end: int | None = None,
) -> Iterator[int]:
    """Continue ``prompt`` token by token: up to ``max_tokens``, to the ``end`` token (not given out), or to a full context."""
    memory, generator = make_memory(model, 1), torch.Generator().manual_seed(seed)
    logits = advance(model, memory, [0], torch.tensor([list(prompt)]))
    for index in range(max_tokens):
        token = sample(logits[0], temperature, top_p, generator)
        if token == end:
            return
        yield token
        if index + 1 == max_tokens or memory.lengths[0] == memory.context:
            return
        logits = advance(model, memory, [0], torch.tensor([[token]]))
