"""Encoded records as numbered examples: each once per epoch, in random order. N records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from treadle.core.batch import Batch
from treadle.core.errors import UserError
from treadle.data.columns import Augment, Column, Numbers, load_column
from treadle.data.loader import Examples, LastEpochs, permutation

_WINDOW, _BLOCK = 1024, 32


class Table(Examples):
    """One part of a dataset of records. With ``augment`` an input's values are changed anew each time that they are read, from
    (seed, example number) alone; with ``moves`` a head's right answers follow.

    Where inputs differ in length, records of like length are neighbours: the random order is sorted by length within windows of
    1,024 records, and its blocks of 32 are put in random order again. Raises ``UserError`` if there are no records.
    """

    def __init__(
        self, part: str, inputs: Mapping[str, Column], targets: Mapping[str, Column], seed: int,
        augment: Mapping[str, Augment] | None = None, shuffle: bool = True, moves: Mapping[str, Augment] | None = None,
    ) -> None:
        self.part, self.inputs, self.targets, self.seed = part, dict(inputs), dict(targets), seed
        self.augment, self.moves, self.shuffle = dict(augment or {}), dict(moves or {}), shuffle
        self.records = len(next(iter(inputs.values())))
        if not self.records:
            cure = "give more data, or a smaller share to the other parts"
            raise UserError(f"the {part} part holds no records", cure=cure)
        ragged = [lengths for column in inputs.values() if (lengths := column.lengths()) is not None]
        self._lengths = np.max(ragged, axis=0) if ragged else None
        self._orders = LastEpochs[Numbers]()
        self.context = 0

    @classmethod
    def open(
        cls, folder: Path, part: str, inputs: list[str], targets: list[str], seed: int = 0,
        augment: Mapping[str, Augment] | None = None, shuffle: bool = True, moves: Mapping[str, Augment] | None = None,
    ) -> Table:
        """The part as a dataset artifact holds it."""
        return cls(
            part, {name: load_column(folder, part, f"inputs.{name}") for name in inputs},
            {name: load_column(folder, part, f"heads.{name}") for name in targets}, seed, augment, shuffle, moves,
        )

    @property
    def alike(self) -> bool:
        return all(column.starts is None for columns in (self.inputs, self.targets) for column in columns.values())

    def whole(self) -> Batch:
        """All records in order, as one batch."""
        return self.at(np.arange(self.records, dtype=np.int64))

    def rows(self, numbers: Numbers) -> Batch:
        epochs, places = np.divmod(numbers, self.records)
        if len(numbers) and (epochs == epochs[0]).all():
            return self.at(self._order(int(epochs[0]))[places], numbers)
        index = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._order(int(epoch))[places[here]]
        return self.at(index, numbers)

    def at(self, index: Numbers, numbers: Numbers | None = None) -> Batch:
        """The records ``index`` (B,), changed at random if they have ``numbers`` (B,) as examples."""
        batch = Batch({}, {}, {})
        for store, columns, changes in ((batch.inputs, self.inputs, self.augment), (batch.targets, self.targets, self.moves)):
            for name, column in columns.items():
                values, lengths = column.rows(index)
                if numbers is not None and name in changes:
                    values, lengths = changes[name](values, lengths, numbers)
                store[name] = torch.from_numpy(np.ascontiguousarray(values))
                if lengths is not None:
                    batch.lengths[name] = torch.from_numpy(lengths)
        return batch

    def _order(self, epoch: int) -> Numbers:
        if not self.shuffle:
            return np.arange(self.records, dtype=np.int64)
        return self._orders.of(epoch, self._make_order)

    def _make_order(self, epoch: int) -> Numbers:
        order = permutation(self.seed, epoch, self.records)
        if self._lengths is None:
            return order
        windows = [order[start : start + _WINDOW] for start in range(0, len(order), _WINDOW)]
        order = np.concatenate([window[np.argsort(self._lengths[window], kind="stable")] for window in windows])
        whole = len(order) // _BLOCK * _BLOCK
        blocks = order[:whole].reshape(-1, _BLOCK)[permutation(self.seed, epoch, whole // _BLOCK, 1)]
        return np.concatenate([blocks.ravel(), order[whole:]])
