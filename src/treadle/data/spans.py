"""Spans of a text: which tokens they hold, which tokens make one, and where they are after the text was changed.

Tags are those of the BIO scheme (Ramshaw and Marcus 1995): 0 outside, 1 + 2 k begins a span of the k-th label, 2 + 2 k goes on with
one. A span is (start, end, k), in characters, ``end`` behind the last one. T tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from treadle.data.columns import Array, Numbers
from treadle.data.steps.redact import Moves

Span = tuple[int, int, int]


def tag(places: Array, spans: Sequence[Span]) -> Numbers:
    """The tag of each token (T,), of which ``places`` (T, 2) says where it stands. A token belongs to the first span that it shares
    a character with; mere spaces between two tokens of a span belong to it too."""
    tags = np.zeros(len(places), np.int64)
    solid = np.flatnonzero(places[:, 1] > places[:, 0])
    starts, ends = places[solid].T
    free = 0
    for start, end, kind in sorted(spans):
        first = max(int(np.searchsorted(ends, start, "right")), free)
        last = int(np.searchsorted(starts, end, "left"))  # the one behind it
        if first < last:
            tags[solid[first] : solid[last - 1] + 1] = 2 + 2 * kind
            tags[solid[first]] = 1 + 2 * kind
            free = last
    return tags


def spans_of(tags: Iterable[int], places: Array) -> list[tuple[Span, slice]]:
    """What the tags (T,) say, from left to right, each span with its tokens; fewer than 0 is outside. One that goes on with what
    never began begins it."""
    found: list[tuple[Span, slice]] = []
    begun, kind = -1, -1
    for number, value in enumerate([*islice(tags, len(places)), 0]):
        goes_on = begun >= 0 and int(value) == 2 + 2 * kind
        if begun >= 0 and not goes_on:
            held = places[begun:number]
            held = held[held[:, 1] > held[:, 0]]
            if len(held):
                found.append(((int(held[0, 0]), int(held[-1, 1]), kind), slice(begun, number)))
            begun = -1
        if value > 0 and not goes_on:
            begun, kind = number, (int(value) - 1) // 2
    return found


def shift(start: int, end: int, moves: Moves) -> tuple[int, int]:
    """Where the characters from ``start`` to ``end`` stand after ``moves``; what holds a part of something that was replaced holds
    all of what stands there now."""
    for done in moves:
        grown = [length - (b - a) for a, b, length in done]
        first = bisect.bisect_right([b for _, b, _ in done], start)  # the first one that ends behind it
        last = bisect.bisect_left([a for a, _, _ in done], end)  # behind the last one that begins before its end
        if first < last:
            start, end = min(start, done[first][0]), max(end, done[last - 1][1])
        start, end = start + sum(grown[:first]), end + sum(grown[: max(first, last)])
    return start, end
