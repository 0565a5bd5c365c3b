"""Tokens to text while they come: never half a character, never any part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer


def token_bytes(tokenizer: Tokenizer, size: int) -> list[bytes]:
    """Token id (below ``size``) -> the bytes that it stands for in a byte-level BPE; nothing for special tokens, nor for ids that
    the tokenizer lacks.

    Byte-level BPE writes each byte as one printable character (Radford et al. 2019, encoder.py of their release).
    """
    alphabet = _alphabet()
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    table = []
    for id in range(size):
        text = tokenizer.id_to_token(id)
        if text is None or id in special:
            table.append(b"")
        elif all(character in alphabet for character in text):
            table.append(bytes(alphabet[character] for character in text))
        else:  # a token that was added to the vocabulary as plain text
            table.append(text.encode())
    return table


def _alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 characters stand for themselves, the other bytes for characters from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(plain))
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


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
