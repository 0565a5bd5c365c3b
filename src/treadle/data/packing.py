"""Documents of mixed length in full rows, each apart from the others.

A document of more than T tokens is cut into pieces of T, elsewhere in each epoch. Rows are then filled with what fits best, the
longest piece first (as Ding et al. 2024, section 3); where nothing that is left fits, the shortest of it is cut to fill the row.
So all rows are full but for one, and every token is predicted once per epoch.

B rows of T positions; N tokens and D documents in the shard; P pieces in R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from treadle.core.batch import IGNORE, Batch
from treadle.data.loader import LastEpochs, Numbers, Running, permutation, philox
from treadle.data.shards import END_ID, Shard


@dataclass(frozen=True)
class Rows:
    """One epoch's rows."""

    pieces: Numbers
    """(P, 2): the first token of each piece in the shard, and how many; one that begins at N is padding."""
    ends: Numbers
    """(R,) pieces up to and with each row."""
    cut: int
    """Pieces that were cut to fill a row."""

    def of(self, row: int) -> Numbers:
        """The row's pieces (P', 2)."""
        return self.pieces[self.ends[row - 1] if row else 0 : self.ends[row]]


def fill_rows(pieces: Numbers, context: int, behind: int) -> Rows:
    """``pieces`` (P, 2) of at most ``context`` tokens in full rows; the last is filled up with a piece that begins at ``behind``.
    Among those of one length, the last comes first."""
    waiting: list[list[int]] = [[] for _ in range(context + 1)]
    lengths = 0  # bit n: there are pieces of n tokens
    for first, count in pieces.tolist():
        waiting[count].append(first)
        lengths |= 1 << count
    found: list[tuple[int, int]] = []
    ends, cut = [], 0
    while lengths:
        room = context
        while room and lengths:
            fits = lengths & ((2 << room) - 1)
            count = (fits or lengths & -lengths).bit_length() - 1  # the longest that fits, else the shortest of all
            first = waiting[count].pop()
            lengths ^= (not waiting[count]) << count
            if count > room:
                waiting[count - room].append(first + room)
                lengths |= 1 << (count - room)
                count, cut = room, cut + 1
            found.append((first, count))
            room -= count
        if room:
            found.append((behind, room))
        ends.append(len(found))
    return Rows(np.array(found, np.int64).reshape(-1, 2), np.array(ends, np.int64), cut)


class Packed(Running):
    """A shard's documents in rows; ``places[input]`` counts from 0 in each piece. A document begins behind the end mark."""

    def __init__(self, shard: Shard, context: int, seed: int, input: str = "text", head: str = "next") -> None:
        super().__init__(shard, context, seed, input, head)
        self._epochs = LastEpochs[tuple[Rows, Numbers]]()

    @property
    def windows(self) -> int:
        """Rows per epoch."""
        return -(-len(self.shard.tokens) // self.context)

    @property
    def tokens_per_epoch(self) -> int:
        return len(self.shard.tokens)

    def words(self) -> str:
        """What becomes of the documents in the first epoch."""
        longer, cut = int((np.diff(self.shard.starts) > self.context).sum()), self._epochs.of(0, self._epoch)[0].cut
        rows = f"{len(self.shard)} documents fill {self.windows} rows of {self.context} tokens, and none sees another"
        return f"{rows}; {longer} are longer than a row and cut, and {cut} cuts more fill the rows"

    def rows(self, numbers: Numbers) -> Batch:
        total, shape = len(self.shard.tokens), (len(numbers), self.context)
        found = [self._row(*divmod(int(number), self.windows)) for number in numbers]
        firsts, counts = np.concatenate(found).T
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) - np.repeat(ends - counts, counts)  # (B T,)
        index = np.repeat(firsts, counts) + places
        real = index < total
        index %= total
        read = np.where(real, self.shard.tokens[index - 1], END_ID)
        asked = real if self.shard.targets is None else real & (self.shard.targets[index] != 0)
        targets = np.where(asked, self.shard.tokens[index].astype(np.int64), IGNORE)
        return Batch(
            {self.input: torch.from_numpy(read.astype(np.int64).reshape(shape))},
            {self.head: torch.from_numpy(targets.reshape(shape))},
            places={self.input: torch.from_numpy(places.reshape(shape))},
        )

    def _row(self, epoch: int, place: int) -> Numbers:
        rows, order = self._epochs.of(epoch, self._epoch)
        return rows.of(int(order[place]))

    def _epoch(self, epoch: int) -> tuple[Rows, Numbers]:
        """Its rows, and the order of their turn."""
        rows = fill_rows(self._pieces(epoch), self.context, len(self.shard.tokens))
        return rows, permutation(self.seed, epoch, len(rows.ends), 1)

    def _pieces(self, epoch: int) -> Numbers:
        """Documents in random order, long ones in pieces of which the first has 1 to T tokens: (P, 2)."""
        order = permutation(self.seed, epoch, len(self.shard))
        firsts, counts = self.shard.starts[:-1][order], np.diff(self.shard.starts)[order]
        drawn = (philox(self.seed, epoch, 2).random_raw(len(order)) % np.uint64(self.context)).astype(np.int64)
        head = np.where(counts > self.context, 1 + drawn, counts)
        more = -(-(counts - head) // self.context)  # pieces behind the first
        number = np.arange((1 + more).sum()) - np.repeat(np.cumsum(1 + more) - 1 - more, 1 + more)
        head, first, end = (np.repeat(x, 1 + more) for x in (head, firsts, firsts + counts))
        begin = first + np.where(number > 0, head + (number - 1) * self.context, 0)
        return np.stack([begin, np.minimum(np.where(number > 0, begin + self.context, first + head), end) - begin], 1)
