"""Documents one per row, for examples that are shorter than a window, such as users' answers."""

from __future__ import annotations

import numpy as np
import torch

from treadle.core.batch import IGNORE, Batch
from treadle.core.errors import UserError
from treadle.data.loader import Examples, Numbers
from treadle.data.shards import Shard


class Documents(Examples):
    """Row = end mark, then the document; each document once per epoch, in random order from (seed, epoch).

    A document of more than T tokens keeps its last T, since what is to be predicted stands at its end. Rows are filled up with
    end marks that carry no loss. Raises ``UserError`` if the shard is empty.
    """

    def __init__(self, shard: Shard, context: int, seed: int, input: str = "text", head: str = "next") -> None:
        if not len(shard):
            cure = "give more data, or a smaller share to the other parts"
            raise UserError(f"the {shard.part} part holds no documents", cure=cure)
        self.shard, self.context, self.seed, self.input, self.head = shard, context, seed, input, head

    @property
    def documents(self) -> int:
        """Examples per epoch."""
        return len(self.shard)

    def rows(self, numbers: Numbers) -> Batch:
        inputs = np.zeros((len(numbers), self.context), np.int64)
        targets = np.full((len(numbers), self.context), IGNORE, np.int64)
        for row, number in enumerate(numbers):
            epoch, place = divmod(int(number), self.documents)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.documents)
            index = int(order[place])
            tokens = self.shard.document(index).astype(np.int64)
            end = tokens[-1]
            predicted = np.where(self.shard.document_targets(index), tokens, IGNORE)[-self.context :]
            read = np.concatenate([[end], tokens])[:-1][-self.context :]
            inputs[row] = end
            inputs[row, : len(read)] = read
            targets[row, : len(predicted)] = predicted
        places = {self.input: torch.arange(self.context).repeat(len(numbers), 1)}
        return Batch({self.input: torch.from_numpy(inputs)}, {self.head: torch.from_numpy(targets)}, places=places)
