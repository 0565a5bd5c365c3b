"""How much two texts are alike, or that they belong together. N records."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.data.columns import Array, Column
from treadle.data.fields.base import BadValue, Field
from treadle.data.fields.number import parse_number
from treadle.data.fields.text import PairField
from treadle.data.targets.base import Target

Value = tuple[str, str, float | None]
"""Both texts, and the number in the data's unit; None where nobody knows, or nobody is asked."""


class EmbeddingTarget(Target):
    """(N, 3) float64: how much the texts are alike, 0 for the least of the train part's numbers, 1 for the most and for all pairs
    that have none, NaN where nobody knows; and a number for each text, the same for equal ones."""

    arrow = pa.float64()
    pair: PairField
    low, high = 0.0, 1.0

    def meet(self, inputs: Mapping[str, Field]) -> None:
        self.pair = next(field for field in inputs.values() if isinstance(field, PairField))
        self.pair.apart = True

    @property
    def graded(self) -> bool:
        """Whether the data says how much texts are alike."""
        return bool(self.columns)

    def parse(self, raw: Any) -> float | None:
        number = parse_number(raw)
        return number

    def agree(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        for column, text in zip(self.pair.columns, self.pair.value(fields), strict=True):
            if not text:
                raise BadValue("no text", column)
        return {}

    def value(self, fields: Mapping[str, Any]) -> Value:
        return *self.pair.value(fields), fields.get(self.columns[0]) if self.graded else None

    def fit(self, values: Sequence[Value]) -> None:
        known = [number for _, _, number in values if number is not None]
        if self.graded and len(set(known)) < 2:
            message = f"head {self.name!r}: the train part holds {len(set(known))} different numbers, so nothing is more alike"
            raise UserError(message, cure="name another column, or none if all pairs belong together")
        if self.graded:
            self.low, self.high = float(min(known)), float(max(known))

    def encode(self, values: Sequence[Value]) -> Column:
        rows = [(self._alike(number), _number(one), _number(two)) for one, two, number in values]
        return Column(np.array(rows, np.float64).reshape(-1, 3))

    def _alike(self, number: float | None) -> float:
        if not self.graded:
            return 1.0
        return math.nan if number is None else (number - self.low) / (self.high - self.low)

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From (N, 2, D): the vectors of both texts, which are what is asked for only where one is missing."""
        return [{"answer": row} for row in outputs]

    def about(self, answer: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The cosine of the two texts; of one alone its vector; of none nothing."""
        vectors: Array = answer["answer"]
        there = [number for number, text in enumerate(self.pair.value(fields)) if text]
        if len(there) == 2:
            return {"answer": round(float(vectors[0] @ vectors[1]), 6)}
        return {"answer": [round(float(part), 6) for part in vectors[there[0]]] if there else None}

    def answered(self, raw: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """Of a right cosine the number in the data's unit."""
        if not self.graded:
            raise BadValue("nothing to learn", "the model learns from pairs that belong together, not from cosines")
        cosine = None if isinstance(answer, (list, dict)) else parse_number(answer)
        if cosine is None or not -1 <= cosine <= 1:
            raise BadValue("not a cosine", str(answer)[:40])
        return {self.columns[0]: self.low + cosine * (self.high - self.low)}

    @property
    def layout(self) -> Layout:
        options = {"weight": self.settings.weight, "temperature": self.settings.temperature, "graded": self.graded}
        return Layout("embedding", options=options)

    def state(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.low, self.high = float(state["low"]), float(state["high"])


def _number(text: str) -> int:
    """48 bits of the text's hash, which float64 holds exactly."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
