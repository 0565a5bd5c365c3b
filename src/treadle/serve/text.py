"""Tokens to text while they come: never half a character, never any part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """One answer's text. What ``push`` gives is final: together it is the answer, cut before the first stop string.

    Bytes that can never become UTF-8 give U+FFFD at once, as ``tokenizer.decode`` does; a character that is only begun is held
    back, and left out if the answer ends there.
    """

    def __init__(self, table: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self.text = ""
        """All that was given out."""
        self._table, self._stops = table, list(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Text that ``token`` makes certain; sets ``stopped`` if it completes a stop string."""
        assert not self.stopped
        text = self._held + self._decoder.decode(self._table[token])
        # The stop string that is complete first wins, so the outcome does not depend on how the text falls into tokens.
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._give(text[: min(ends)[1]], "")
        begun = max((_overlap(text, stop) for stop in self._stops), default=0)
        return self._give(text[: len(text) - begun], text[len(text) - begun :])

    def finish(self) -> str:
        """What was held back as a possible stop string, when the answer ends without one."""
        return "" if self.stopped else self._give(self._held, "")

    def _give(self, text: str, held: str) -> str:
        self._held = held
        self.text += text
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` with which ``stop`` begins."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
