"""The batch at step n is a pure function of (tokens, seed, n, batch size): not of workers, ranks or restarts.

The documents of a shard form a ring: each ends with the end mark, so the position before the first document holds one too.
An epoch cuts the ring, from a random start, into windows of T tokens and visits each once in random order. Examples are
numbered through all epochs; row r of step n is example n * batch + r, so that any batch size walks the same examples.

Shapes: B examples of T positions; N tokens in the shard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from treadle.core.batch import IGNORE, Batch, join
from treadle.core.errors import UserError
from treadle.data.shards import Shard

Numbers = npt.NDArray[np.int64]
T = TypeVar("T")


def philox(*key: int) -> np.random.Philox:
    """Raw Philox words, which no numpy version changes."""
    return np.random.Philox(np.random.SeedSequence(key[0], spawn_key=key[1:]))


def permutation(seed: int, epoch: int, count: int, *more: int) -> Numbers:
    """A random order of ``count`` things, a pure function of the arguments."""
    return np.argsort(philox(seed, epoch, *more).random_raw(count), kind="stable").astype(np.int64)


class Examples(ABC):
    """An endless, numbered sequence of examples."""

    context: int
    """Positions of an example (T)."""

    @abstractmethod
    def rows(self, numbers: Numbers) -> Batch:
        """The examples of these numbers (B,)."""

    def batch_at(self, step: int, batch: int) -> Batch:
        """Step ``step`` (from 0) of ``batch`` examples."""
        return self.rows(np.arange(step * batch, (step + 1) * batch, dtype=np.int64))

    @property
    def alike(self) -> bool:
        """Whether several batches that are drawn as one are those that are drawn one by one: no example is filled up."""
        return False

    @property
    def unit(self) -> str:
        """What they are counted in."""
        return "tokens" if self.context else "records"

    @property
    def per_row(self) -> int:
        """Units in one row of a batch."""
        return self.context or 1


class LastEpochs(Generic[T]):
    """What was made for the last two epochs: a batch may lie across both."""

    def __init__(self) -> None:
        self._made: dict[int, T] = {}

    def of(self, epoch: int, make: Callable[[int], T]) -> T:
        """What ``make`` gives for ``epoch``."""
        if epoch not in self._made:
            while len(self._made) >= 2:
                self._made.pop(next(iter(self._made)))
            self._made[epoch] = make(epoch)
        return self._made[epoch]


class Running(Examples):
    """Examples of a shard's running text: ``inputs[input]`` the tokens before those of ``targets[head]``, which are ``IGNORE``
    where the shard does not want them predicted.

    Raises ``UserError`` if the shard is empty.
    """

    def __init__(self, shard: Shard, context: int, seed: int, input: str = "text", head: str = "next") -> None:
        if not len(shard.tokens):
            raise UserError(f"the {shard.part} part holds no tokens", cure="give more data, or a smaller share to the other parts")
        self.shard, self.context, self.seed, self.input, self.head = shard, context, seed, input, head


class Windows(Running):
    """Windows of T tokens out of a ring of all documents. A shard of fewer than T tokens is read round and round."""

    def __init__(self, shard: Shard, context: int, seed: int, input: str = "text", head: str = "next") -> None:
        super().__init__(shard, context, seed, input, head)
        self._orders = LastEpochs[Numbers]()

    @property
    def windows(self) -> int:
        """Examples per epoch."""
        return max(1, len(self.shard.tokens) // self.context)

    @property
    def tokens_per_epoch(self) -> int:
        """Positions per epoch; less than a window's worth of the shard is left over, elsewhere each time."""
        return self.windows * self.context

    def rows(self, numbers: Numbers) -> Batch:
        epochs, places = np.divmod(numbers, self.windows)
        starts = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            starts[here] = self._orders.of(int(epoch), self._order)[places[here]]
        total = len(self.shard.tokens)
        index = (starts[:, None] + np.arange(-1, self.context)) % total  # (B, T + 1)
        tokens = self.shard.tokens[index].astype(np.int64)
        targets = tokens[:, 1:]
        if self.shard.targets is not None:
            targets = np.where(self.shard.targets[index[:, 1:]] != 0, targets, IGNORE)
        return Batch(
            {self.input: torch.from_numpy(np.ascontiguousarray(tokens[:, :-1]))},
            {self.head: torch.from_numpy(np.ascontiguousarray(targets))},
        )

    def _order(self, epoch: int) -> Numbers:
        """First token of each window, in the order of their turn."""
        source = philox(self.seed, epoch)
        offset = int(source.random_raw()) % len(self.shard.tokens)
        order = np.argsort(source.random_raw(self.windows), kind="stable")
        return (offset + order * self.context).astype(np.int64)


class Chosen(Examples):
    """Some examples of another sequence, numbered anew from 0, each once."""

    def __init__(self, examples: Examples, numbers: Numbers) -> None:
        self.examples, self.numbers, self.context = examples, numbers, examples.context

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, numbers: Numbers) -> Batch:
        return self.examples.rows(self.numbers[numbers])


class Mixed(Examples):
    """Two sequences woven into one, ``share`` of it (to a thousandth) from ``second``, evenly; nest for more than two."""

    def __init__(self, first: Examples, second: Examples, share: float) -> None:
        assert first.context == second.context, f"contexts {first.context} and {second.context} differ"
        self.first, self.second, self.context = first, second, first.context
        self.share = Fraction(share).limit_denominator(1000)

    def rows(self, numbers: Numbers) -> Batch:
        top, bottom = self.share.numerator, self.share.denominator
        before = numbers * top // bottom  # examples of ``second`` among those numbered lower
        chosen = (numbers + 1) * top // bottom > before
        if chosen.all():
            return self.second.rows(before)
        if not chosen.any():
            return self.first.rows(numbers - before)
        both = join(self.first.rows((numbers - before)[~chosen]), self.second.rows(before[chosen]))
        # ``first``'s examples stand before ``second``'s; this puts them back in the order of their numbers.
        return both.take(torch.from_numpy(np.argsort(np.argsort(chosen, kind="stable"), kind="stable")))
