"""A text whose characters are spoken in order, at times that nobody noted. N records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.data.columns import Array, Column, ragged
from treadle.data.fields.text import parse_text
from treadle.data.targets.base import Target

_UNSEEN = 1
_OWN = 2
"""Blank, which also fills up rows, is 0; ids below are not characters of the train part."""


class TranscriptTarget(Target):
    """Ids of characters, ragged. A character that the train part lacks is 'unseen', which no answer can get right."""

    def parse(self, raw: Any) -> str | None:
        return parse_text(raw) or None

    def fit(self, values: Sequence[str | None]) -> None:
        self.characters = sorted(Counter(character for value in values for character in value or ""))
        if not self.characters:
            raise UserError(f"head {self.name!r}: no record of the train part has a text", cure="name another field")

    def encode(self, values: Sequence[str | None]) -> Column:
        ids = {character: id for id, character in enumerate(self.characters, _OWN)}
        return ragged([np.array([ids.get(c, _UNSEEN) for c in value or ""], np.int64) for value in values], np.int64)

    def text(self, ids: Array) -> str:
        """From ids (L,) without blanks, filled up with 0 or less."""
        return "".join(self.characters[id - _OWN] if id >= _OWN else "\ufffd" for id in ids[ids > 0].astype(np.int64).tolist())

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From ids (N, L) filled up with 0."""
        return [{"answer": self.text(row)} for row in outputs]

    @property
    def layout(self) -> Layout:
        return Layout("ctc", vocabulary=_OWN + len(self.characters), options={"weight": self.settings.weight})

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.characters = list(state["characters"])
