"""Days and moments as they are written, and what a network reads of them."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import numpy as np
import pytest

from treadle.data.fields.base import BadValue
from treadle.data.fields.date import DateField, parse_moment
from treadle.spec.inputs import Date


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(("raw", "moment"), [
    ("2024", at(2024, 1, 1)), (2024, at(2024, 1, 1)), (2024.0, at(2024, 1, 1)), ("1969", at(1969, 1, 1)),
    ("20240131", at(2024, 1, 31)), (20240131.0, at(2024, 1, 31)), ("2024-03", at(2024, 3, 1)),
    ("1704067200", at(2024, 1, 1)), (1704067200.5, at(2024, 1, 1) + 0.5), ("86400", at(1970, 1, 2)), ("-86400", at(1969, 12, 31)),
    ("2024-02-29T12:30:00+02:00", at(2024, 2, 29, 10, 30)), ("29 Feb 2024", at(2024, 2, 29)),
    (date(2024, 2, 29), at(2024, 2, 29)), (datetime(2024, 2, 29, 6), at(2024, 2, 29, 6)), ("", None), (None, None),
])
def test_what_is_written_is_read(raw: object, moment: float | None):
    assert parse_moment(raw) == moment


@pytest.mark.parametrize("raw", ["0000", "20241301", "2024-02-30", "x", "12:61"])
def test_what_is_no_date_is_said(raw: str):
    with pytest.raises(BadValue, match="not a date"):
        parse_moment(raw)


def test_what_a_network_reads():
    field = DateField("when", Date(), ("when",))
    field.fit([at(2024, 1, 1), at(2024, 12, 31), None])
    noon, missing = field.encode([at(2024, 7, 1, 12), None]).values
    middle = (at(2024, 1, 1) + at(2024, 12, 31)) / 2
    assert noon[0] == pytest.approx((at(2024, 7, 1, 12) - middle) / (middle - at(2024, 1, 1)), abs=1e-5)
    year = 2 * math.pi * (182 + 0.5) / 366
    assert noon[1:3] == pytest.approx([math.sin(year), math.cos(year)], abs=1e-5)
    week = 2 * math.pi * 0.5 / 7  # a Monday
    assert noon[5:7] == pytest.approx([math.sin(week), math.cos(week)], abs=1e-5)
    assert noon[7:9] == pytest.approx([0, -1], abs=1e-5)
    assert missing.tolist() == [0.0] * 9 + [1.0]
    again = DateField("when", Date(), ("when",))
    again.restore(field.state())
    assert np.array_equal(again.encode([at(2023, 5, 5)]).values, field.encode([at(2023, 5, 5)]).values)
