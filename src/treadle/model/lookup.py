"""Guesses of what a text goes on with, from what stood in it before (prompt lookup decoding, Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence

_KNOWN = 3
"""Last tokens that must have stood there before."""
_MOST = 3
"""Tokens that are guessed."""


class Lookup:
    """A text so far, and where each three of its tokens stood last."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}

    def push(self, tokens: Sequence[int]) -> None:
        """The text goes on with ``tokens``."""
        for token in tokens:
            if len(self._text) >= _KNOWN:  # what stands before this token is followed by it
                self._places[tuple(self._text[-_KNOWN:])] = len(self._text)
            self._text.append(token)

    def guess(self, most: int) -> list[int]:
        """At most ``most`` tokens that may come next; none where the last ones are new."""
        place = self._places.get(tuple(self._text[-_KNOWN:]))
        return [] if place is None else self._text[place : place + max(0, min(most, _MOST))]
