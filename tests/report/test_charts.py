"""Geometry of the charts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.report.charts import Series, Whisker, line_chart, stacked_bar, ticks, whisker_chart
from treadle.report.graph import Box, layers
from treadle.report.html import Html, tag, text

finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(finite, finite, st.integers(2, 10))
def test_ticks_cover_the_range_with_few_round_steps(a: float, b: float, count: int) -> None:
    low, high = min(a, b), max(a, b)
    marks = ticks(low, high, count)
    slack = max(abs(low), abs(high), 1.0) * 1e-6
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= count + 3
    assert marks == sorted(set(marks))


def test_ticks_of_known_ranges() -> None:
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(1.87, 2.86, 5) == pytest.approx([1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0])


def test_a_line_goes_through_its_points_and_drops_what_cannot_be_drawn() -> None:
    points = [(0.0, 0.0), (1.0, float("nan")), (2.0, float("inf")), (10.0, 10.0)]
    drawing = line_chart([Series("a", points, 1)], "t", "x", "y", 400, 240)
    path = re.findall(r'class="line s1"|d="M([-\d.]+),([-\d.]+)L([-\d.]+),([-\d.]+)"', drawing)
    x0, y0, x1, y1 = (float(value) for value in path[0])
    assert x0 < x1
    assert y0 > y1  # up is more
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_long_lines_are_thinned_to_means() -> None:
    points = [(float(x), float(x % 2)) for x in range(10_000)]
    drawing = line_chart([Series("", points, 1)], "t", "x", "y", 400)
    match = re.search(r' d="M([^"]*)" class="line', drawing)
    assert match
    assert match.group(1).count("L") < 300


def test_a_better_value_stands_further_left_and_its_interval_around_it() -> None:
    rows = [Whisker("model", 1.5, 1.4, 1.6, True), Whisker("base", 2.5, 2.4, 2.6)]
    drawing = whisker_chart(rows, "t", "bits", 500, ("gate", 2.0))
    centres = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawing)]
    bound = float(re.findall(r'<line x1="([\d.]+)"[^>]*class="bound"', drawing)[0])
    assert centres[0] < bound < centres[1]


def test_the_labels_of_values_stay_within_the_drawing_and_clear_of_names() -> None:
    rows = [Whisker("trigram", 2.0, 2.0, 2.0), Whisker("model", 4.0, 4.0, 4.0, True)]
    drawing = whisker_chart(rows, "t", "bits", 340)
    names = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end"(?: class="strong")?>', drawing)]
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle" class="value', drawing)]
    half = len("2.000") * 7.1 / 2
    assert max(names) < min(places) - half
    assert max(places) + half < 340


def test_bars_fill_the_width_in_proportion() -> None:
    drawing = stacked_bar([("a", 3, 1), ("b", 1, 2)], "t", 400, str)
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawing)]
    assert widths == [298.5, 98.5]


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_every_parent_stands_above_its_children(count: int, random: object) -> None:
    names = [f"n{i}" for i in range(count)]
    parents = {name: random.sample(names[:i], min(i, random.randint(0, 3))) for i, name in enumerate(names)}  # type: ignore[attr-defined]
    boxes = [Box(name, name, "", "model") for name in names]
    random.shuffle(boxes)  # type: ignore[attr-defined]
    level = {name: number for number, row in enumerate(layers(boxes, parents)) for name in row}
    assert sorted(level) == sorted(names)
    assert all(level[parent] < level[child] for child, above in parents.items() for parent in above)


@given(st.text())
def test_text_never_becomes_markup(value: str) -> None:
    made = tag("p", value, title=value)
    assert made.count("<") == 2
    assert made.count(">") == 2
    assert made.count('"') == 2
    assert text(Html("<b>")) == "<b>"
