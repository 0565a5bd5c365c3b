"""Quantities: what is written reads to the number meant, what is printed reads back, and anything else is refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.spec.units import (
    Bound,
    Budget,
    format_count,
    format_duration,
    format_figure,
    format_size,
    parse_bound,
    parse_budget,
    parse_count,
    parse_duration,
    parse_fraction,
    parse_share_or_steps,
    parse_size,
)

PARSERS = (parse_bound, parse_budget, parse_count, parse_duration, parse_fraction, parse_share_or_steps, parse_size)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_duration, "90 s", 90), (parse_duration, "3 min", 180), (parse_duration, "1.5h", 5400),
        (parse_duration, "2 days", 172_800), (parse_duration, "1 hour", 3600), (parse_duration, "250 ms", 0.25),
        (parse_size, 200, 200), (parse_size, "200 KB", 200_000), (parse_size, "1.5 MiB", 1_572_864), (parse_size, "2gb", 2 * 10**9),
        (parse_count, "2M", 2_000_000), (parse_count, "1.5k", 1500), (parse_count, 7, 7), (parse_count, "2e3", 2000),
        (parse_fraction, "5%", 0.05), (parse_fraction, 0.05, 0.05), (parse_fraction, "0", 0), (parse_fraction, 1, 1),
        (parse_budget, "500 steps", Budget(500, "steps")), (parse_budget, "1 step", Budget(1, "steps")),
        (parse_budget, "2M tokens", Budget(2e6, "tokens")), (parse_budget, "1.5 epochs", Budget(1.5, "epochs")),
        (parse_share_or_steps, "5%", 0.05), (parse_share_or_steps, 0.05, 0.05),
        (parse_share_or_steps, "1 step", Budget(1, "steps")), (parse_share_or_steps, "2k steps", Budget(2000, "steps")),
        (parse_budget, "3 min", Budget(180, "seconds")),
        (parse_bound, "<= 2.0", Bound("<=", 2.0)),
        (parse_bound, ">=50%", Bound(">=", 0.5)), (parse_bound, ">= -1e-3", Bound(">=", -0.001)),
    ],
)
def test_written_forms(parse: Callable[[object], object], text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_duration, 90), (parse_duration, "90"), (parse_duration, "3 parsecs"), (parse_duration, "-3 s"),
        (parse_duration, True), (parse_duration, "1e999 s"),
        (parse_size, "1e999"), (parse_size, "-1"), (parse_size, "1 KiBs2"), (parse_size, None),
        (parse_count, "1.5"), (parse_count, "1e999"), (parse_count, "two"), (parse_count, float("nan")),
        (parse_fraction, "105%"), (parse_fraction, -0.1), (parse_fraction, "nan"), (parse_fraction, True), (parse_fraction, [1]),
        (parse_budget, "0 steps"), (parse_budget, "1.5 steps"), (parse_budget, "nan epochs"), (parse_budget, "inf epochs"),
        (parse_budget, "10"), (parse_budget, "steps"), (parse_budget, {}),
        (parse_share_or_steps, "105%"), (parse_share_or_steps, "steps"), (parse_share_or_steps, "1.5 steps"),
        (parse_bound, "2.0"), (parse_bound, "< 2"), (parse_bound, "<= 1.2.3"), (parse_bound, "<= 1e999"), (parse_bound, "<= nan"),
    ],
)
def test_other_forms_are_refused_with_those_that_are_allowed(parse: Callable[[object], object], text: object) -> None:
    with pytest.raises(ValueError, match=r"is written like|is a whole number, like"):
        parse(text)


@given(st.sampled_from(PARSERS), st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.booleans(), st.none()))
def test_a_parser_gives_a_finite_value_or_says_what_is_allowed(parse: Callable[[object], object], value: object) -> None:
    try:
        parsed = parse(value)
    except ValueError as error:
        said = str(error)
        if "written like" not in said and "whole number" not in said:
            raise
    else:
        number = parsed if isinstance(parsed, (int, float)) else getattr(parsed, "amount", None) or getattr(parsed, "value", 0)
        assert math.isfinite(number)


@given(st.sampled_from(["tokens", "steps"]), st.integers(1, 2**53))
def test_a_whole_budget_reads_back(unit: str, amount: int) -> None:
    assert parse_budget(Budget(float(amount), unit).exact()) == Budget(float(amount), unit)


@given(st.sampled_from(["seconds", "epochs"]), st.floats(1e-9, 1e9))
def test_a_fractional_budget_reads_back(unit: str, amount: float) -> None:
    assert parse_budget(Budget(amount, unit).exact()) == Budget(amount, unit)


@given(st.sampled_from(["<=", ">="]), st.floats(allow_nan=False, allow_infinity=False))
def test_a_bound_reads_back(sign: str, value: float) -> None:
    assert parse_bound(str(Bound(sign, value))) == Bound(sign, value)


@given(st.integers(0, 10**13))
def test_a_printed_count_reads_back_to_three_figures(count: int) -> None:
    text = format_count(count).replace("T", "000G")
    assert math.isclose(parse_count(text), count, rel_tol=0.006)
    assert len(text.replace("000G", "T")) <= 6


@given(st.floats(0, 1e12))
def test_a_printed_size_reads_back(count: float) -> None:
    number, unit = format_size(count).split()
    size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) < 1000
    assert math.isclose(float(number) * size, count, rel_tol=0.051, abs_tol=0.51)


def test_printed_durations() -> None:
    cases = {0.0: "0 s", 0.454: "0.45 s", 12.3: "12 s", 59.7: "1 min 00 s", 185: "3 min 05 s", 7800: "2 h 10 min"}
    cases[100 * 3600] = "4 d 4 h"
    assert {seconds: format_duration(seconds) for seconds in cases} == cases


def test_a_bound_is_never_kept_by_nan() -> None:
    assert Bound("<=", 2).holds(2)
    assert not Bound("<=", 2).holds(2.1)
    assert Bound(">=", 2).holds(3)
    assert not Bound("<=", 2).holds(math.nan)
    assert not Bound(">=", 2).holds(math.nan)


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [(0.98063, 4, "", "0.9806"), (44559.6, 4, "", "44,560"), (1234.56, 4, "", "1235"), (-0.5, 4, "+", "-0.5"),
     (12.345, 4, "+", "+12.35"),
     (1.2e-7, 4, "", "1.2e-07"), (1234.0, 2, "", "1,200"), (float("nan"), 4, "", "nan"), (0.0, 4, "", "0")],
)
def test_figures_are_written_for_people(value: float, digits: int, sign: str, text: str):
    assert format_figure(value, digits, sign) == text
