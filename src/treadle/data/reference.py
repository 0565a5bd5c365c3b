"""What a model was made with, as counts in cells: of each input in the training part, of each head's answers on held-out records.

It travels in the package (reference.json), and what is asked and answered later is counted in the same cells. There is no value in
it that few records have: bounds of numbers are inner quantiles, a name has a cell of its own only where ``LEAST`` records have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from treadle.core.errors import ArtifactError
from treadle.data.columns import Array, Column
from treadle.data.drift import Statistic, Verdict, effective_size, judge
from treadle.data.schema import Schema
from treadle.data.targets.base import Target
from treadle.data.targets.items import NextItemTarget
from treadle.data.targets.scalar import BinaryTarget, ClassTarget

FILE = "reference.json"
LEAST = 10
_CELLS = 20
_NAMES = 30
_OWN = 3  # names' ids begin here, as in data/fields/category.py: 0 is missing, 1 unseen, 2 rare
_MOST = 200_000  # values that a reference is made from
_SPAN = 512  # tokens of a text that are looked at
_VERSION = 1


@dataclass(frozen=True)
class Seen:
    """Values of one thing: numbers (NaN: missing), or ids of names. ``lengths``: of how many each observation consists, where it
    is not one (tokens of a text)."""

    kind: Literal["numbers", "names", "tokens"]
    values: Array
    lengths: Array | None = None

    @property
    def observations(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)

    @property
    def size(self) -> float:
        """As how many independent draws it counts."""
        return float(len(self.values)) if self.lengths is None else effective_size(self.lengths)


@dataclass(frozen=True)
class Reference:
    """Cells, and how many values of the training part stand in each (C,)."""

    kind: Literal["numbers", "names", "tokens"]
    bounds: tuple[float, ...]
    """Of numbers: ascending; a cell holds what is above one and at most the next, and the first cell what is missing. Of names: the
    ids that have a cell of their own, behind those for missing, unseen and all others."""
    counts: tuple[int, ...]
    size: float

    @property
    def statistic(self) -> Statistic:
        return "ks" if self.kind == "numbers" else "psi"

    @classmethod
    def of(cls, seen: Seen) -> Reference | None:
        """Made from a training part's values; None where they are too few."""
        if seen.observations < 2 * LEAST or not len(seen.values):
            return None
        made = cls(seen.kind, _names(seen.values) if seen.kind == "names" else _quantiles(seen.values), (), seen.size)
        return cls(seen.kind, made.bounds, tuple(made.count(seen.values).tolist()), seen.size)

    def count(self, values: Array) -> Array:
        """How many of ``values`` (N,) stand in each cell (C,)."""
        bounds = np.asarray(self.bounds)
        if self.kind == "names":
            known = {int(id): place for place, id in enumerate(self.bounds, _OWN)}
            cells = np.array([known.get(int(id), min(int(id), _OWN - 1)) for id in values], np.int64)
            return np.bincount(cells, minlength=_OWN + len(bounds))
        cells = 1 + np.searchsorted(bounds, values, "left")
        cells = np.where(np.isnan(values), 0, cells)
        return np.bincount(cells, minlength=2 + len(bounds))

    def judge(self, counts: Array, size: float, observations: int, together: int) -> Verdict:
        """Whether what was counted drifted; see ``data/drift.py``."""
        return judge(self.statistic, self.counts, counts, (self.size, size), observations, together)


def _quantiles(values: Array) -> tuple[float, ...]:
    known = values[~np.isnan(values.astype(np.float64))]
    cells = min(_CELLS, len(known) // LEAST)
    if cells < 2:
        return ()
    found = np.quantile(known, np.arange(1, cells) / cells)
    return tuple(sorted({float(f"{bound:.6g}") for bound in found}))


def _names(ids: Array) -> tuple[float, ...]:
    names, counts = np.unique(ids[ids >= _OWN], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_NAMES]
    return tuple(int(names[place]) for place in order if counts[place] >= LEAST)


# -- what is looked at -------------------------------------------------------------------------------------------------


WATCHED = ("number", "category", "boolean", "set", "text", "pair")
"""Kinds of input that are looked at. Not dates, which move on by themselves, nor pictures, recordings and histories."""

Thing = tuple[str, str]
"""("input" or "output", name)."""


def watched(schema: Schema) -> list[str]:
    """Names of the inputs that are looked at."""
    return [name for name in schema.inputs if schema.model.inputs[name].kind in WATCHED]


def seen_inputs(schema: Schema, columns: Mapping[str, Column]) -> dict[Thing, Seen]:
    """What of encoded inputs is counted."""
    found: dict[Thing, Seen] = {}
    for name, column in columns.items():
        found |= {("input", name + part): seen for part, seen in _seen_input(schema.model.inputs[name].kind, column).items()}
    return found


def _seen_input(kind: str, column: Column) -> dict[str, Seen]:
    """By what is added to the input's name."""
    if kind == "number":
        return {"": Seen("numbers", column.values.astype(np.float64))}
    if kind == "category":
        return {"": Seen("names", column.values)}
    if kind == "boolean":  # 0 missing, 1 no, 2 yes
        return {"": Seen("names", np.where(column.values > 0, column.values + _OWN - 1, 0))}
    assert column.starts is not None
    lengths = np.diff(column.starts)
    found = {" length": Seen("numbers", lengths.astype(np.float64))}
    if kind == "set":
        return found | {"": Seen("names", column.values, lengths)}
    tokens = column.values if column.values.ndim == 1 else column.values[:, 0]
    return found | {"": seen_tokens([tokens[a:b] for a, b in zip(column.starts[:-1], column.starts[1:], strict=True)])}


def seen_tokens(texts: Iterable[Sequence[int] | Array]) -> Seen:
    """Texts as token ids: tokenizers number tokens from the shortest and commonest on, so ranges of ids are kinds of tokens."""
    cut = [np.asarray(text[:_SPAN], np.int64) for text in texts if len(text)]
    values = np.concatenate(cut) if cut else np.zeros(0, np.int64)
    return Seen("tokens", values, np.array([len(text) for text in cut], np.int64))


def seen_outputs(schema: Schema, predictions: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[Thing, Seen]:
    """What of the heads' answers to N records is counted: a number as it is, a class by its place, of lists and texts the length.
    Not tags, whose spans depend on how the text was sent, nor vectors."""
    found: dict[Thing, Seen] = {}
    for name, target in schema.targets.items():
        seen = _seen_output(schema.model.heads[name].kind, target, [prediction[name]["answer"] for prediction in predictions])
        if seen is not None and len(seen.values):
            found["output", name] = seen
    return found


def _seen_output(kind: str, target: Target, answers: Sequence[Any]) -> Seen | None:
    names = _names_of(target)
    if names:
        return Seen("names", np.array([0 if answer is None else names.get(str(answer), 1) for answer in answers], np.int64))
    if kind in ("number", "embedding"):
        numbers = [float(answer) for answer in answers if isinstance(answer, (int, float))]
        return Seen("numbers", np.array(numbers, np.float64))
    if kind in ("labels", "boxes", "ctc"):
        return Seen("numbers", np.array([len(answer) for answer in answers], np.float64))
    return None


def _names_of(target: Target) -> dict[str, int]:
    """Of a head that answers with one of several names, their ids."""
    names: Sequence[str] = ()
    if isinstance(target, ClassTarget):
        names = target.classes
    elif isinstance(target, BinaryTarget):
        names = target.names
    elif isinstance(target, NextItemTarget):
        names = target.history.vocabulary.names
    return {name: id for id, name in enumerate(names, _OWN)}


def references_of(seen: Mapping[Thing, Seen]) -> References:
    """What is usual, of those of which enough was seen."""
    return {thing: made for thing, one in seen.items() if (made := Reference.of(one)) is not None}


def thinned(column: Column) -> Column:
    """``column``, or evenly spaced rows of it where it has very many."""
    if len(column) <= _MOST:
        return column
    index = np.linspace(0, len(column) - 1, _MOST).astype(np.int64)
    if column.starts is None:
        return Column(column.values[index])
    lengths = column.starts[index + 1] - column.starts[index]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Column(np.concatenate([column.values[column.starts[row] : column.starts[row + 1]] for row in index]), starts)


# -- at rest -----------------------------------------------------------------------------------------------------------

References = dict[Thing, Reference]
"""What is usual of each thing."""


def save_references(folder: Path, references: References) -> None:
    """Write reference.json."""
    rows = [
        {"what": what, "name": name, "kind": one.kind, "bounds": list(one.bounds), "counts": list(one.counts), "size": one.size}
        for (what, name), one in references.items()
    ]
    text = json.dumps({"version": _VERSION, "references": rows}, ensure_ascii=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def load_references(folder: Path) -> References | None:
    """As saved; None for a package of an earlier Treadle, which has none. Raises ``ArtifactError`` where it is damaged."""
    if not (folder / FILE).exists():
        return None
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {
            (str(row["what"]), str(row["name"])): Reference(row["kind"], tuple(row["bounds"]), tuple(row["counts"]), row["size"])
            for row in found["references"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"cannot read {folder / FILE}: {error}", cure="remove that artifact and run again") from None
