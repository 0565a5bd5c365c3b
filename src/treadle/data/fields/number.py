"""A quantity: scaled, or in pieces; missing is NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.layout import Layout
from treadle.data.columns import Array, Column
from treadle.data.fields.base import BadValue, Field, text_of

_FAR = 1e6  # deviations
_KNOTS = 1001
_RANKS = np.linspace(0, 1, _KNOTS)
_NORMAL = np.array([NormalDist().inv_cdf(min(max(rank, 1e-4), 1 - 1e-4)) for rank in _RANKS])


def parse_number(raw: Any) -> float | None:
    """A finite float, or None where there is nothing. Raises ``BadValue``."""
    if isinstance(raw, bool):
        return float(raw)
    text = text_of(raw)
    if text is None:
        return None
    try:
        number = float(text.replace("_", "x"))
    except ValueError:
        raise BadValue("not a number", repr(text[:80])) from None
    if not math.isfinite(number):
        raise BadValue("not a finite number", text[:80])
    return number


class NumberField(Field):
    """``scale`` as the settings say. A missing number is NaN; the model replaces it and is told."""

    arrow = pa.float64()

    def parse(self, raw: Any) -> float | None:
        return parse_number(raw)

    def fit(self, values: Sequence[float | None]) -> None:
        known = np.array([value for value in values if value is not None], np.float64)
        if not len(known):
            known = np.zeros(1)
        scale = self.settings.scale
        if scale == "log":
            known = _signed_log(known)
        if scale == "robust":
            low, self.centre, high = np.quantile(known, [0.25, 0.5, 0.75])
            self.spread = high - low
        else:
            self.centre, self.spread = known.mean(), known.std()
        self.centre, self.spread = float(self.centre), float(self.spread) or 1.0
        self.knots = np.quantile(known, _RANKS) if scale == "quantile" else np.zeros(0)
        scaled = self._scale(known)
        bins = self.settings.bins
        self.edges = np.unique(np.quantile(scaled, np.linspace(0, 1, bins + 1))) if bins else np.zeros(0)
        if len(self.edges) < 2:
            self.edges = np.zeros(0)

    def encode(self, values: Sequence[float | None]) -> Column:
        """(N,) float32, NaN where missing."""
        numbers = np.array([math.nan if value is None else value for value in values], np.float64)
        if self.settings.scale == "log":
            numbers = _signed_log(numbers)
        # Nothing is learned so far out, and what float32 cannot hold would make the answer no number.
        return Column(np.clip(self._scale(numbers), -_FAR, _FAR).astype(np.float32))

    def _scale(self, numbers: Array) -> Array:
        if self.settings.scale != "quantile":
            scaled: Array = (numbers - self.centre) / self.spread
            return scaled
        # The middle of the ranks that equal values share, so that a frequent value is not pushed to one side.
        low = np.searchsorted(self.knots, numbers, "left") / (_KNOTS - 1)
        high = np.searchsorted(self.knots, numbers, "right") / (_KNOTS - 1)
        between = np.interp(numbers, self.knots, _RANKS)
        rank = np.where(high - low > 2 / _KNOTS, (low + high) / 2, between)
        return np.where(np.isnan(numbers), np.nan, np.interp(rank, _RANKS, _NORMAL))

    @property
    def layout(self) -> Layout:
        return Layout("number", edges=tuple(self.edges.tolist()))

    def state(self) -> dict[str, Any]:
        return {"centre": self.centre, "spread": self.spread, "knots": self.knots.tolist(), "edges": self.edges.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.centre, self.spread = float(state["centre"]), float(state["spread"])
        self.knots, self.edges = np.array(state["knots"], np.float64), np.array(state["edges"], np.float64)


def _signed_log(numbers: Array) -> Array:
    found: Array = np.sign(numbers) * np.log1p(np.abs(numbers))
    return found
