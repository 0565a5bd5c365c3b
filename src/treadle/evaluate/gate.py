"""Whether figures keep to the project's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.evaluate.metrics import Figure
from treadle.spec.stages import Evaluate


def judge(settings: Evaluate, figures: Mapping[str, Mapping[str, Figure]]) -> list[dict[str, Any]]:
    """One row per bound of the gate, ``metric`` or ``head.metric``, over the heads' figures: passed only if the whole interval
    keeps to it."""
    rows = []
    for key, bound in settings.gate.items():
        head, _, metric = key.rpartition(".")
        figure = figures[head or next(name for name, found in figures.items() if metric in found)][metric]
        passed = bound.holds(figure.high) and bound.holds(figure.low)
        rows.append({"metric": key, "bound": str(bound), **figure.as_dict(), "passed": passed})
    return rows
