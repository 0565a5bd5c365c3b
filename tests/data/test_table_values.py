"""Values at the edge of what a column can hold are read or set aside, and end nothing."""

from __future__ import annotations

import pytest

from treadle.data.fields.base import BadValue, text_of
from treadle.data.fields.date import parse_moment
from treadle.data.fields.number import parse_number


@pytest.mark.parametrize("raw", [float("inf"), "-inf", "1e999"])
def test_what_is_not_finite_is_no_number(raw: object):
    with pytest.raises(BadValue, match="not a finite number"):
        parse_number(raw)
    assert text_of(float("inf")) == "inf"


@pytest.mark.parametrize("raw", ["99999999999999999999", "20249999", "soon"])
def test_what_lies_beyond_the_calendar_is_no_date(raw: str):
    with pytest.raises(BadValue, match="not a date"):
        parse_moment(raw)


def test_seconds_and_days_are_dates():
    assert parse_moment("86400") == 86400.0
    assert parse_moment("19700102") == parse_moment("1970-01-02") == 86400.0
