"""Encoded fields at rest: one .npy per column and part, memory-mapped; ragged ones have a second file with their starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]

Augment = Callable[[Array, Numbers | None, Numbers], tuple[Array, Numbers | None]]
"""(values (B, ...), their lengths (B,) if they differ, the example's number (B,), which with the seed is all that the change
follows from) -> changed values and lengths."""


@dataclass(frozen=True)
class Column:
    """N values: ``values`` (N, ...), or where they differ in length (sum of lengths, ...) and ``starts`` (N + 1,)."""

    values: Array
    starts: Numbers | None = None

    def __len__(self) -> int:
        return len(self.values) if self.starts is None else len(self.starts) - 1

    def lengths(self) -> Numbers | None:
        """(N,), or None where all are alike."""
        return None if self.starts is None else np.diff(self.starts)

    def rows(self, index: Numbers) -> tuple[Array, Numbers | None]:
        """The values of ``index`` (B,): (B, ...), or (B, longest, ...) filled up with zeros, and their lengths (B,)."""
        if self.starts is None:
            return self.values[index], None
        starts, lengths = self.starts[index], self.starts[index + 1] - self.starts[index]
        longest = max(1, int(lengths.max(initial=0)))
        inside = np.arange(longest) < lengths[:, None]  # (B, longest)
        found = np.zeros((len(index), longest, *self.values.shape[1:]), self.values.dtype)
        found[inside] = self.values[(starts[:, None] + np.arange(longest))[inside]]
        return found, lengths


def ragged(rows: list[Array], dtype: Any, shape: tuple[int, ...] = ()) -> Column:
    """A column of arrays (length, *shape) of any lengths."""
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    values = np.concatenate([np.asarray(row, dtype).reshape(-1, *shape) for row in rows]) if rows else np.zeros((0, *shape), dtype)
    return Column(values, starts)


def save_column(folder: Path, part: str, name: str, column: Column) -> None:
    np.save(folder / f"{part}.{name}.npy", column.values, allow_pickle=False)
    if column.starts is not None:
        np.save(folder / f"{part}.{name}.starts.npy", column.starts, allow_pickle=False)


def load_column(folder: Path, part: str, name: str) -> Column:
    """As ``save_column`` wrote it, memory-mapped."""
    starts = folder / f"{part}.{name}.starts.npy"
    mapped = np.load(folder / f"{part}.{name}.npy", mmap_mode="r", allow_pickle=False)
    values = np.asarray(mapped)  # the same pages, without the cost of numpy's memmap class at each index
    return Column(values, np.load(starts, allow_pickle=False) if starts.exists() else None)
