"""Figures in words, from plain documents. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.spec.units import format_figure

_WORDS = {"better": "better than {}", "worse": "worse than {}", "even": "not told apart from {}"}


def standing(head: Mapping[str, Any]) -> list[str]:
    """How a head stands against each baseline, of a scorecard's ``heads``: one line per baseline."""
    lines = []
    for name, figures in head["baselines"].items():
        if against := figures.get("against"):
            lines.append(f"{_WORDS[against['verdict']].format(name)}: {against['figure']} {_change(against)}")
    return lines


def fold_standing(head: Mapping[str, Any]) -> list[str]:
    """In how many folds the model was ahead of each baseline, of a cross-validation's ``heads``."""
    lines = []
    for name, figures in head["baselines"].items():
        if against := figures.get("against"):
            count, level = len(against["folds"]), f", level in {against['level']}" if against["level"] else ""
            lines.append(f"ahead of {name} in {against['ahead']} of {count} folds{level} ({against['figure']})")
    return lines


def _change(against: Mapping[str, Any]) -> str:
    """The difference with its 95% interval: shares in points of a hundred, numbers as they are."""
    if against["figure"] == "rmse":
        said = [format_figure(against[key], sign="+") for key in ("value", "low", "high")]
        return f"{said[0]} ({said[1]} to {said[2]})"
    value, low, high = (100 * float(against[key]) for key in ("value", "low", "high"))
    return f"{value:+.2f} points ({low:+.2f} to {high:+.2f})"
