"""A day or a moment: how long ago, and where on the circles of year, month, week and day."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from dateutil import parser

from treadle.core.layout import Layout
from treadle.data.columns import Column
from treadle.data.fields.base import BadValue, Field, text_of

FEATURES = 10


def parse_moment(raw: Any) -> float | None:
    """Seconds since 1970 in UTC, or None where there is nothing. A number is such seconds already, but four digits are a year, and
    eight are a day. Raises ``BadValue``."""
    if isinstance(raw, datetime):
        return (raw if raw.tzinfo else raw.replace(tzinfo=UTC)).timestamp()
    if isinstance(raw, date):
        return datetime(raw.year, raw.month, raw.day, tzinfo=UTC).timestamp()
    text = text_of(raw)
    if text is None:
        return None
    try:
        if text.lstrip("-").replace(".", "", 1).isdecimal() and not re.fullmatch(r"\d{4}(\d{4}(\.\d*)?)?", text):  # 2024, 20240131
            return datetime.fromtimestamp(float(text), UTC).timestamp()  # a moment of the years 1 to 9999, or none
        moment = parser.parse(text, default=datetime(1970, 1, 1))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadValue("not a date", repr(text[:80])) from None


class DateField(Field):
    """(N, 10) float32: standardised time, sine and cosine of year, month, week and day, and 1 where missing."""

    arrow = pa.float64()

    def parse(self, raw: Any) -> float | None:
        return parse_moment(raw)

    def fit(self, values: Sequence[float | None]) -> None:
        known = np.array([value for value in values if value is not None] or [0.0])
        self.mean, self.deviation = float(known.mean()), float(known.std()) or 1.0

    def encode(self, values: Sequence[float | None]) -> Column:
        return Column(np.array([self._features(value) for value in values], np.float32).reshape(-1, FEATURES))

    def _features(self, value: float | None) -> list[float]:
        if value is None:
            return [0.0] * (FEATURES - 1) + [1.0]
        moment = datetime.fromtimestamp(value, UTC)
        day = (moment.hour + moment.minute / 60) / 24
        shares = ((moment.timetuple().tm_yday - 1 + day) / 366, (moment.day - 1 + day) / 31, (moment.weekday() + day) / 7, day)
        circles = [f(2 * math.pi * share) for share in shares for f in (math.sin, math.cos)]
        return [(value - self.mean) / self.deviation, *circles, 0.0]

    @property
    def layout(self) -> Layout:
        return Layout("date", channels=FEATURES)

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = float(state["mean"]), float(state["deviation"])
