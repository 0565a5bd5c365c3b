"""What a training measured to choose its settings, how it was brought back on course, what its gradients say of its batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from treadle.report.charts import Series, both_widths, line_chart
from treadle.report.html import Html, join, tag
from treadle.spec.units import format_count

_NEAR = 3
"""A batch within this factor of the noise scale is called near it."""
_AXES = {
    "learning_rate": ("range test of the learning rate", "rate", "smoothed loss"),
    "batch": ("seconds per example, by batch", "examples in a batch", "seconds"),
}


def chosen(counts: Mapping[str, Any]) -> Html:
    """The curve of each setting that was read off one, with the reason."""
    rows = [row for row in counts.get("derived", ()) if row.get("curve")]
    return join([tag("figure", _curve(row), tag("figcaption", f"{row['key']} {row['value']}: {row['reason']}.")) for row in rows])


def _curve(row: Mapping[str, Any]) -> Html:
    """Over a logarithmic axis."""
    title, x_label, y_label = _AXES[row["key"]]
    base = 2 if row["key"] == "batch" else 10
    points = [(math.log(x, base), y) for x, y in row["curve"]]
    series = [Series("", points, 3, "dots" if len(points) < 10 else "line")]

    def shown(x: float) -> str:
        return format_count(round(base**x)) if base == 2 else f"{base**x:.1g}"

    return both_widths(lambda width: line_chart(series, title, x_label, y_label, width, 200, shown))


def returns(counts: Mapping[str, Any]) -> Html:
    """Where the training left its course, and from where it went on."""
    found = counts.get("returns") or []
    if not found:
        return Html("")
    times = "once" if len(found) == 1 else f"{len(found)} times"
    lines = [tag("li", f"{back['words'][:1].upper()}{back['words'][1:]}.") for back in found]
    return join([tag("p", f"Training left its course {times} and was brought back:", class_="warns"), tag("ul", *lines)])


def noise_words(counts: Mapping[str, Any], batch: int, unit: str) -> str:
    """What the gradient noise scale says of the batch; empty where it is not known."""
    noise = counts.get("noise_scale")
    if not noise:
        return ""
    what = "sequences" if unit == "tokens" else "records"
    said = f"The gradient noise scale was about {format_count(float(f'{noise:.2g}'))} {what} at the end (McCandlish et al. 2018)"
    if batch * _NEAR < noise:
        return f"{said}: the batch of {batch} is far below it, and a larger one would learn as much from them in fewer steps"
    if batch > _NEAR * noise:
        return f"{said}: the batch of {batch} is far above it, and a smaller one would learn more from as many"
    return f"{said}: the batch of {batch} is near it, which costs twice the fewest steps and twice the fewest {what}"
