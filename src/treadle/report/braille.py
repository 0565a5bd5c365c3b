"""Curves as text: a line of braille dots, four high and two wide in each character, and marks over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from treadle.report.charts import number, smooth, thin, ticks

MARK = "◆"
_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character, by column and then by row from the top."""

Points = Sequence[tuple[float, float]]


def text_chart(line: Points, marks: Points, width: int, height: int, show_x: Callable[[float], str] = number) -> list[str]:
    """``height`` + 2 lines of at most ``width`` characters: the running mean of ``line``, and ``marks`` where they lie. Nothing
    where there is no point. The y axis is logarithmic where a loss falls to less than half: the late part of a run is seen too."""
    shown, marks = smooth(thin(line, 2 * width)), thin(marks, width)
    if not shown and not marks:
        return []
    ys = [y for _, y in (*shown, *marks)]
    bend = math.log if min(ys) > 0 and max(ys) > 2 * min(ys) else float
    low, high = bend(min(ys)), bend(max(ys))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    labels = _labels(min(ys), max(ys), bend, low, high, height)
    left = max(map(len, labels.values()), default=0)
    wide = max(10, width - left - 2)
    first, last = min(x for x, _ in (*shown, *marks)), max(x for x, _ in (*shown, *marks))
    first = 0.0 if 0 <= first < 0.1 * last else first

    def place(x: float, y: float) -> tuple[float, float]:
        """Column and row in dots, from the left and from the top."""
        across = (x - first) / max(last - first, 1e-12) * (2 * wide - 1)
        return across, (high - bend(y)) / (high - low) * (4 * height - 1)

    cells = [[_BLANK] * wide for _ in range(height)]
    _draw(cells, [place(x, y) for x, y in shown])
    rows = [[chr(cell) if cell != _BLANK else " " for cell in row] for row in cells]
    for x, y in marks:
        across, down = place(x, y)
        rows[min(height - 1, round(down) // 4)][min(wide - 1, round(across) // 2)] = MARK
    drawn = [f"{labels.get(row, ''):>{left}} {'┤' if row in labels else '│'}{''.join(rows[row])}".rstrip() for row in range(height)]
    ends = show_x(first), show_x(last)
    under = f"{'':{left}}  {ends[0]}{ends[1]:>{wide - len(ends[0])}}"
    return [*drawn, f"{'':{left}} └{'─' * wide}", under]


def _labels(low: float, high: float, bend: Callable[[float], float], bottom: float, top: float, height: int) -> dict[int, str]:
    """Row -> round number that lies there; at most about one every three rows."""
    found: dict[int, str] = {}
    for value in ticks(low, high, max(2, height // 3)) if bend is float else _powers(low, high):
        if low <= value <= high:
            row = min(height - 1, round((top - bend(value)) / (top - bottom) * (4 * height - 1)) // 4)
            if all(abs(row - other) > 1 for other in found):
                found[row] = number(value)
    return found


def _powers(low: float, high: float) -> list[float]:
    """1, 2, 3 and 5 times powers of ten between the two."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 3, 5) if low <= digit * 10.0**power <= high]


def _draw(cells: list[list[int]], path: Sequence[tuple[float, float]]) -> None:
    """Set the dots of the line through ``path``, which goes from left to right."""
    for (x0, y0), (x1, y1) in pairwise(path):
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(count + 1):
            _dot(cells, x0 + (x1 - x0) * step / count, y0 + (y1 - y0) * step / count)
    if len(path) == 1:
        _dot(cells, *path[0])


def _dot(cells: list[list[int]], x: float, y: float) -> None:
    across, down = max(0, min(2 * len(cells[0]) - 1, round(x))), max(0, min(4 * len(cells) - 1, round(y)))
    cells[down // 4][across // 2] |= _DOTS[across % 2][down % 4]
