"""How far transcripts are from what was said. N records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treadle.evaluate.metrics import Figure, Floats, ratio


def edit_distance(one: Sequence[str], two: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that turn one into the other (Wagner and Fischer 1974)."""
    names = {name: number for number, name in enumerate(dict.fromkeys([*one, *two]))}
    across = np.array([names[name] for name in two], np.int64)
    places = np.arange(len(two) + 1)
    row = places.copy()
    for number, name in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (across != names[name]))
        # From the left at one step each: the least of (value - place) so far, brought to this place.
        row = np.minimum.accumulate(np.concatenate([[number], best]) - places) + places
    return int(row[-1])


def transcript_figures(outputs: npt.NDArray[Any], targets: npt.NDArray[Any], target: Any, drawn: Floats) -> dict[str, Figure]:
    """Edit distance by the number of characters, and of words, that were said: over all records together, so above 1 where far more
    is heard than was said."""
    pairs = [(target.text(given), target.text(right)) for given, right in zip(outputs, targets, strict=True)]
    found = {}
    for name, parts in (("character_error", list), ("word_error", str.split)):
        off = np.array([edit_distance(parts(right), parts(given)) for given, right in pairs], np.float64)
        size = np.array([len(parts(right)) for _, right in pairs], np.float64)
        found[name] = ratio(off, size, drawn)
    return found
