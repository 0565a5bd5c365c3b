"""One class, yes or no, a number, several labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.data.columns import Array, Column
from treadle.data.fields.base import text_of
from treadle.data.fields.category import parse_names
from treadle.data.fields.number import parse_number
from treadle.data.targets.base import Target

IGNORE = -100
UNSEEN = -1
"""An answer that the train part does not hold: no loss is taken of it, and whatever the model says is wrong."""
_SHOWN = 20
"""Classes whose probability is given, the likeliest first."""


class ClassTarget(Target):
    """(N,) int64 class numbers, ``UNSEEN`` for a class that training never saw, ``IGNORE`` where there is no answer."""

    def parse(self, raw: Any) -> str | None:
        return text_of(raw)

    def fit(self, values: Sequence[str | None]) -> None:
        counts = Counter(value for value in values if value is not None)
        if len(counts) < 2:
            message = f"head {self.name!r}: the train part holds {len(counts)} class{'es' * (len(counts) != 1)}"
            raise UserError(message, cure="a class head needs two at least: name another field, or give more data")
        self.classes = sorted(counts, key=_natural)
        total = sum(counts.values())
        self.weights = [total / len(counts) / counts[name] for name in self.classes] if self.settings.balance else []

    def encode(self, values: Sequence[str | None]) -> Column:
        ids = {name: id for id, name in enumerate(self.classes)}
        return Column(np.array([ids.get(value, UNSEEN) if value is not None else IGNORE for value in values], np.int64))

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From probabilities (N, C)."""
        found = []
        for row in outputs:
            order = np.argsort(-row, kind="stable")[:_SHOWN]
            shares = {self.classes[id]: round(float(row[id]), 6) for id in order}
            found.append({"answer": self.classes[int(order[0])], "probabilities": shares})
        return found

    @property
    def layout(self) -> Layout:
        options = {"smoothing": self.settings.smoothing, "weight": self.settings.weight}
        return Layout("category", vocabulary=len(self.classes), weights=tuple(self.weights), options=options)

    def state(self) -> dict[str, Any]:
        return {"classes": self.classes, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.classes, self.weights = list(state["classes"]), list(state["weights"])


class BinaryTarget(Target):
    """(N,) float32: 1 for the positive value, 0 for the other, ``UNSEEN`` for a third one, NaN where there is no answer."""

    def parse(self, raw: Any) -> str | None:
        return text_of(raw)

    def fit(self, values: Sequence[str | None]) -> None:
        counts = Counter(value for value in values if value is not None)
        names = sorted(counts, key=_natural)
        if len(names) != 2:
            shown = ", ".join(repr(name) for name in names[:5])
            message = f"head {self.name!r}: a yes/no head needs two values, the train part holds {len(names)} ({shown})"
            raise UserError(message, cure=f"say '{self.name}: category' for several classes, or give data of both kinds")
        wanted = self.settings.positive
        if wanted is not None and wanted not in names:
            cure = f"write one of {names[0]!r} and {names[1]!r}"
            raise UserError(f"head {self.name!r}: no record holds the positive value {wanted!r}", cure=cure)
        yes = wanted or (names[1] if counts[names[1]] <= counts[names[0]] else names[0])
        self.names = [next(name for name in names if name != yes), yes]
        self.share = counts[yes] / sum(counts.values())

    def encode(self, values: Sequence[str | None]) -> Column:
        ids = {name: float(id) for id, name in enumerate(self.names)}
        return Column(np.array([ids.get(value, UNSEEN) if value is not None else math.nan for value in values], np.float32))

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From the probability of the positive value (N,)."""
        return [
            {"answer": self.names[int(p >= 0.5)],
             "probabilities": {self.names[1]: round(float(p), 6), self.names[0]: round(1 - float(p), 6)}}
            for p in outputs
        ]

    @property
    def layout(self) -> Layout:
        weights = (0.5 / (1 - self.share), 0.5 / self.share) if self.settings.balance else ()
        return Layout("binary", vocabulary=2, weights=weights, options={"weight": self.settings.weight})

    def state(self) -> dict[str, Any]:
        return {"names": self.names, "share": self.share}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.names, self.share = list(state["names"]), float(state["share"])


class NumberTarget(Target):
    """(N,) float32, standardised; NaN where there is no answer."""

    arrow = pa.float64()

    def parse(self, raw: Any) -> float | None:
        number = parse_number(raw)
        return number

    def fit(self, values: Sequence[float | None]) -> None:
        known = self._in(np.array([value for value in values if value is not None], np.float64))
        if not len(known) or not np.isfinite(known).all():
            cure = "name a field with numbers; 'log: true' takes only numbers above -1"
            raise UserError(f"head {self.name!r}: the train part holds no number to learn", cure=cure)
        self.mean, self.deviation = float(known.mean()), float(known.std()) or 1.0

    def encode(self, values: Sequence[float | None]) -> Column:
        numbers = self._in(np.array([math.nan if value is None else value for value in values], np.float64))
        return Column(((numbers - self.mean) / self.deviation).astype(np.float32))

    def numbers(self, outputs: Array) -> Array:
        """Standardised numbers in the unit of the data (float64)."""
        plain = outputs.astype(np.float64) * self.deviation + self.mean
        return np.expm1(plain) if self.settings.log else plain

    def _in(self, numbers: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log1p(numbers) if self.settings.log else numbers

    @property
    def middle(self) -> int:
        """Which of the quantiles is the answer."""
        return min(range(len(self.settings.quantiles)), key=lambda i: abs(self.settings.quantiles[i] - 0.5))

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From predictions (N, 1), or one per quantile (N, Q)."""
        plain = self.numbers(outputs)
        if self.settings.loss != "quantile":
            return [{"answer": float(row[0])} for row in plain]
        names = [f"{share:g}" for share in self.settings.quantiles]
        found = []
        for row in plain:
            shares = dict(zip(names, map(float, np.sort(row)), strict=True))  # sorted: quantiles learned apart may cross
            found.append({"answer": float(row[self.middle]), "quantiles": shares})
        return found

    @property
    def layout(self) -> Layout:
        quantiles = list(self.settings.quantiles) if self.settings.loss == "quantile" else []
        options = {"loss": self.settings.loss, "quantiles": quantiles, "weight": self.settings.weight}
        return Layout("number", mean=(self.mean,), deviation=(self.deviation,), options=options)

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = float(state["mean"]), float(state["deviation"])


class LabelsTarget(Target):
    """(N, C) float32: 1 for each label that the record has."""

    arrow = pa.list_(pa.string())

    def parse(self, raw: Any) -> list[str]:
        return parse_names(raw, self.settings.separator)

    def fit(self, values: Sequence[list[str] | None]) -> None:
        self.labels = sorted({name for value in values for name in value or ()}, key=_natural)
        if not self.labels:
            raise UserError(f"head {self.name!r}: no record of the train part has a label", cure="name another field")

    def encode(self, values: Sequence[list[str] | None]) -> Column:
        ids = {name: id for id, name in enumerate(self.labels)}
        found = np.zeros((len(values), len(self.labels)), np.float32)
        for row, value in enumerate(values):
            for name in value or ():
                if name in ids:
                    found[row, ids[name]] = 1
        return Column(found)

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From probabilities (N, C)."""
        return [
            {"answer": [name for name, p in zip(self.labels, row, strict=True) if p >= 0.5],
             "probabilities": {name: round(float(p), 6) for name, p in zip(self.labels, row, strict=True)}}
            for row in outputs
        ]

    @property
    def layout(self) -> Layout:
        return Layout("labels", vocabulary=len(self.labels), options={"weight": self.settings.weight})

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels = list(state["labels"])


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then names by letter."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
