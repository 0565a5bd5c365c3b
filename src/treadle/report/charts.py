"""Charts as SVG. Colours are CSS variables of the page, so that one drawing serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from treadle.report.html import Html, join, tag

CHAR = 7.1
"""Width of a character of the charts' 12-pixel type, about."""
_BOLD = 8.0
_POINTS = 300
"""A line of more points is drawn as the means of as many stretches."""


@dataclass(frozen=True)
class Series:
    """A line (``kind`` ``line`` or ``faint``) or points joined by one (``dots``). ``colour`` 1 to 6."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    kind: str = "line"


@dataclass(frozen=True)
class Whisker:
    """A value with its 95% interval. ``strong``: what the chart is about, the others being what it is compared with."""

    label: str
    value: float
    low: float
    high: float
    strong: bool = False


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str, width: int, height: int = 260,
    x_text: Callable[[float], str] | None = None, y_text: Callable[[float], str] | None = None, zero: bool = False,
    level: tuple[str, float] | None = None,
) -> Html:
    """Lines over one x axis, each named at its end. ``zero``: the y axis starts at 0. ``level``: a dashed line, its name and y."""
    series = [Series(s.name, thin(s.points), s.colour, s.kind) for s in series if s.points]
    xs, ys = ([point[i] for s in series for point in s.points] for i in (0, 1))
    ys += [level[1]] if level else []
    named = [s for s in series if s.name]
    label_width = max((len(s.name) for s in named), default=0) * _BOLD + (14 if named else 10)
    y_ticks = ticks(min(0.0, *ys) if zero else min(ys), max(ys), max(3, height // 55))
    x_ticks = ticks(min(xs), max(xs), max(3, int(width / 130)))
    show_x, show_y = x_text or number, y_text or number
    left = max(len(show_y(y)) for y in y_ticks) * CHAR + 12
    top, bottom, right = 26.0, height - 40.0, width - label_width
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1e-9)
    low_x = 0.0 if 0 <= low_x < 0.1 * high_x else low_x
    low_y, high_y = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def at_x(x: float) -> float:
        return left + (x - low_x) / (high_x - low_x) * (right - left)

    def at_y(y: float) -> float:
        return bottom - (y - low_y) / max(high_y - low_y, 1e-12) * (bottom - top)

    parts = [tag("text", y_label, x=0, y=12, class_="axis")]
    for y in y_ticks:
        parts.append(tag("line", x1=left, x2=right, y1=at_y(y), y2=at_y(y), class_="grid"))
        parts.append(tag("text", show_y(y), x=left - 6, y=at_y(y) + 4, text_anchor="end"))
    for x in (x for x in x_ticks if low_x <= x <= high_x):
        parts.append(tag("line", x1=at_x(x), x2=at_x(x), y1=bottom, y2=bottom + 4, class_="tick"))
        parts.append(tag("text", show_x(x), x=at_x(x), y=bottom + 17, text_anchor="middle"))
    parts.append(tag("text", x_label, x=right, y=height - 5, text_anchor="end", class_="axis"))
    if level:
        parts.append(tag("line", x1=left, x2=right, y1=at_y(level[1]), y2=at_y(level[1]), class_="bound"))
        parts.append(tag("text", level[0], x=right, y=at_y(level[1]) - 6, text_anchor="end", class_="axis"))
    for s in series:
        parts.append(_drawn(s, [(at_x(x), at_y(y)) for x, y in s.points], show_x, show_y, x_label))
    ends = _spread([at_y(s.points[-1][1]) for s in named], 15, top, bottom)
    for s, y in zip(named, ends, strict=True):
        parts.append(tag("text", s.name, x=at_x(s.points[-1][0]) + 8, y=y + 4, class_=f"name f{s.colour}"))
    return _svg(parts, title, width, height)


def whisker_chart(
    rows: Sequence[Whisker], title: str, axis: str, width: int, bound: tuple[str, float] | None = None,
    show: Callable[[float], str] = "{:.3f}".format,
) -> Html:
    """Dots with whiskers, one row each, the value written beside it; a dashed line where ``bound`` (its name, its value) lies."""
    left = max(len(row.label) for row in rows) * CHAR + 14
    texts = [show(row.value) for row in rows]
    right = width - 14.0
    row_height, top = 34, 34.0 if bound else 14.0
    bottom = top + row_height * len(rows)
    edges = [edge for row in rows for edge in (row.low, row.high)] + ([bound[1]] if bound else [])
    marks = ticks(min(edges), max(edges), max(2, int((right - left) / 90)))
    low, high = min(marks[0], *edges), max(marks[-1], *edges)

    def at(value: float) -> float:
        return left + 26 + (value - low) / max(high - low, 1e-12) * (right - left - 40)  # room for half of the values' labels

    parts = []
    for mark in marks:
        parts.append(tag("line", x1=at(mark), x2=at(mark), y1=top, y2=bottom, class_="grid"))
        parts.append(tag("text", number(mark), x=at(mark), y=bottom + 16, text_anchor="middle"))
    parts.append(tag("text", axis, x=right, y=bottom + 34, text_anchor="end", class_="axis"))
    if bound:
        x = at(bound[1])
        anchor = "end" if x > (left + right) / 2 else "start"
        parts.append(tag("line", x1=x, x2=x, y1=top - 10, y2=bottom, class_="bound"))
        parts.append(tag("text", bound[0], x=x, y=top - 16, text_anchor=anchor, class_="axis"))
    for index, (row, shown) in enumerate(zip(rows, texts, strict=True)):
        y, colour = top + row_height * (index + 0.62), 1 if row.strong else 6
        tip = tag("title", f"{row.label}: {shown} (95% interval {show(row.low)} to {show(row.high)})")
        parts.append(tag(
            "g", tip, tag("rect", x=0, y=y - 17, width=width, height=row_height, fill="transparent"),
            tag("text", row.label, x=left - 8, y=y + 4, text_anchor="end", class_="strong" if row.strong else None),
            tag("line", x1=at(row.low), x2=at(row.high), y1=y, y2=y, class_=f"whisker s{colour}"),
            *(tag("line", x1=at(e), x2=at(e), y1=y - 4, y2=y + 4, class_=f"cap s{colour}") for e in (row.low, row.high)),
            tag("circle", cx=at(row.value), cy=y, r=5, class_=f"f{colour}"),
            tag("text", shown, x=at(row.value), y=y - 9, text_anchor="middle", class_="value" + (" strong" if row.strong else "")),
        ))
    return _svg(parts, title, width, int(bottom + 40))


def stacked_bar(parts: Sequence[tuple[str, float, int]], title: str, width: int, show: Callable[[float], str]) -> Html:
    """One bar, its (name, size, colour) side by side; those wide enough are named in place, all of them by the table beneath it."""
    total = sum(size for _, size, _ in parts) or 1
    x, drawn = 0.0, []
    for name, size, colour in parts:
        wide = size / total * width
        label = f"{name} {size / total:.0%}"
        tip = tag("title", f"{name}: {show(size)}, {size / total:.1%}")
        inside = tag("text", label, x=x + 8, y=22, class_="inside") if len(label) * CHAR + 16 < wide else ""
        drawn.append(tag("g", tip, tag("rect", x=x, y=2, width=max(wide - 1.5, 0.8), height=32, class_=f"f{colour}"), inside))
        x += wide
    return _svg(drawn, title, width, 36)


def paired_bars(
    groups: Sequence[tuple[str, Sequence[tuple[str, float, str, int]]]], title: str, width: int
) -> Html:
    """Groups of bars, each group with its own scale from 0: (name, [(what, size, size as text, colour)])."""
    names = max(len(what) for _, bars in groups for what, *_ in bars) * CHAR + 14
    values = max(len(shown) for _, bars in groups for *_, shown, _ in bars) * CHAR + 14
    parts, y = [], 0.0
    for name, bars in groups:
        parts.append(tag("text", name, x=0, y=y + 14, class_="strong"))
        y += 22
        largest = max((size for _, size, *_ in bars), default=0) or 1
        for what, size, shown, colour in bars:
            long = max(size / largest * (width - names - values), 1.0)
            parts.append(tag("text", what, x=names - 8, y=y + 13, text_anchor="end"))
            tip = tag("title", f"{name}, {what}: {shown}")
            parts.append(tag("rect", tip, x=names, y=y, width=long, height=18, class_=f"f{colour}"))
            parts.append(tag("text", shown, x=names + long + 7, y=y + 13, class_="value"))
            y += 22
        y += 14
    return _svg(parts, title, width, int(y))


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each point and those near it, fewer at the ends, so that nothing is shifted."""
    reach = max(1, len(points) // 60)
    values = [y for _, y in points]
    means = []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        window = values[index - near : index + near + 1]
        means.append((x, sum(window) / len(window)))
    return means


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from at or below ``low`` to at or above ``high``, in steps of 1, 2 or 5 times a power of 10."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    span = max(high - low, abs(high) * 1e-6, 1e-12)
    power = 10 ** math.floor(math.log10(span / count))
    step = next((m * power for m in (1, 2, 5) if span / (m * power) <= count), 10 * power)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """``0.002``, ``2.5``, ``1,200``, ``3.4M``: short enough for an axis."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def both_widths(draw: Callable[[int], Html], wide: int = 860, narrow: int = 340) -> Html:
    """The drawing at two widths, of which the page shows the one that fits, so that type keeps its size on a phone."""
    return join([tag("div", draw(wide), class_="wide"), tag("div", draw(narrow), class_="narrow")])


def _svg(parts: Sequence[object], title: str, width: int, height: int) -> Html:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img")


def _drawn(
    series: Series, points: Sequence[tuple[float, float]], show_x: Callable[[float], str], show_y: Callable[[float], str],
    x_label: str,
) -> Html:
    """The line, and over it what shows its figures under the pointer."""
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [tag("path", d=path, class_=f"line s{series.colour}" + (" faint" if series.kind == "faint" else ""))]
    if series.kind == "faint":
        return join(parts)
    every = max(1, len(points) // 60)
    for (x, y), (value_x, value_y) in list(zip(points, series.points, strict=True))[::every]:
        tip = tag("title", f"{series.name} {show_y(value_y)} at {show_x(value_x)} {x_label}".strip())
        seen = series.kind == "dots"
        parts.append(tag("circle", tip, cx=x, cy=y, r=3.5 if seen else 7, class_=f"f{series.colour}" if seen else "touch"))
    return tag("g", *parts)


def thin(points: Sequence[tuple[float, float]], most: int = _POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of a stretch; figures that are not finite cannot be drawn."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(finite) // most)
    if size <= 1:
        return finite
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _spread(places: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """The places moved apart, so that names at the ends of lines do not lie on each other."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    excess = max(0.0, max(moved, default=top) - bottom)
    return [max(top, place - excess) for place in moved]
