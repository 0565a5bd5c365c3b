"""Spans as tags and back, and where they are after a text was changed, against letter-by-letter references."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treadle.data.spans import Span, shift, spans_of, tag
from treadle.data.steps.redact import redact_and_tell


@st.composite
def tokens_and_spans(draw: st.DrawFn) -> tuple[np.ndarray, list[Span], list[slice]]:
    """Tokens with gaps between some, mere spaces (without extent) among them, and spans that begin and end where tokens do."""
    places, at = [], 0
    for extent in draw(st.lists(st.integers(0, 3), min_size=1, max_size=12)):
        at += draw(st.integers(0, 1))
        places.append((at, at + extent))
        at += extent
    solid = [number for number, (start, end) in enumerate(places) if end > start]
    spans, slices, free = [], [], 0
    while free < len(solid):
        first = draw(st.integers(free, len(solid)))
        if first == len(solid):
            break
        last = draw(st.integers(first, min(first + 2, len(solid) - 1)))
        spans.append((places[solid[first]][0], places[solid[last]][1], draw(st.integers(0, 2))))
        slices.append(slice(solid[first], solid[last] + 1))
        free = last + 1
    return np.array(places), spans, slices


@given(tokens_and_spans())
def test_spans_that_tokens_make_come_back_whole(made: tuple[np.ndarray, list[Span], list[slice]]) -> None:
    places, spans, slices = made
    tags = tag(places, spans)
    for (_, _, kind), held in zip(spans, slices, strict=True):
        assert tags[held].tolist() == [1 + 2 * kind] + [2 + 2 * kind] * (held.stop - held.start - 1)
    assert (tags > 0).sum() == sum(held.stop - held.start for held in slices)
    assert spans_of(tags, places) == list(zip(spans, slices, strict=True))


def test_what_tokens_cannot_make_is_tagged_as_near_as_they_can() -> None:
    places = np.array([[0, 4], [5, 9], [10, 14]])
    assert tag(places, [(2, 7, 0)]).tolist() == [1, 2, 0]
    assert tag(places, [(0, 2, 0), (2, 7, 1)]).tolist() == [1, 3, 0]  # the first word is taken
    assert tag(places, [(5, 6, 0), (7, 9, 1)]).tolist() == [0, 1, 0]  # nothing is left for the second
    assert tag(places, [(4, 5, 0)]).tolist() == [0, 0, 0]
    assert [span for span, _ in spans_of([2, 2, 4], places)] == [(0, 9, 0), (10, 14, 1)]


def reference(text: str, start: int, end: int, redacted: str, moves: list) -> tuple[int, int]:
    """Each letter's number, carried through every pass."""
    carried = [{number} for number in range(len(text))]
    for done in moves:
        after, at = [], 0
        for a, b, length in done:
            after += carried[at:a]
            after += [set().union(*carried[a:b])] * length
            at = b
        carried = after + carried[at:]
    assert len(carried) == len(redacted)
    held = [number for number, origin in enumerate(carried) if origin & set(range(start, end))]
    return held[0], held[-1] + 1


PIECES = [
    "joe@example.com", "Joe ", "call +1 (555) 123-4567 ", "x", "-", " ", "4111 1111 1111 1111", "password = hunter2secret99\n",
    "é🙂",
]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=7), st.data())
def test_spans_move_with_what_redaction_does(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    redacted, _, moves = redact_and_tell(text)
    assert shift(start, end, moves) == reference(text, start, end, redacted, moves)


def test_more_than_one_pass_is_followed() -> None:
    moves = [[(5, 10, 2), (20, 21, 4)], [(4, 8, 1)]]
    text, redacted = "x" * 30, "x" * (30 - 3 + 3 - 3)
    for start in range(30):
        for end in range(start + 1, 31):
            assert shift(start, end, moves) == reference(text, start, end, redacted, moves)
