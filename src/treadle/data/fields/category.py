"""One of several names, yes or no, and several names at once."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.layout import Layout
from treadle.data.columns import Column, ragged
from treadle.data.fields.base import BadValue, Field, text_of

MISSING, UNSEEN, RARE = 0, 1, 2
_OWN = 3
"""Ids below are not names."""

TRUE = frozenset({"true", "yes", "y", "t", "1", "on"})
FALSE = frozenset({"false", "no", "n", "f", "0", "off"})


class Vocabulary:
    """Names to ids: missing 0, unseen 1, rare 2, then the names, the most frequent first."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = list(names)
        self.ids = {name: id for id, name in enumerate(self.names, _OWN)}
        self.rare: set[str] = set()

    @classmethod
    def fitted(cls, values: Iterable[str], least: int) -> Vocabulary:
        """Of the names seen at least ``least`` times; the others of ``values`` are known to be rare."""
        counts = Counter(values)
        kept = sorted((name for name, count in counts.items() if count >= least), key=lambda name: (-counts[name], name))
        made = cls(kept)
        made.rare = set(counts) - set(kept)
        return made

    def id(self, name: str | None) -> int:
        if name is None:
            return MISSING
        return self.ids.get(name, RARE if name in self.rare else UNSEEN)

    def __len__(self) -> int:
        return _OWN + len(self.names)

    def state(self) -> dict[str, Any]:
        return {"names": self.names, "rare": sorted(self.rare)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Vocabulary:
        made = cls(state["names"])
        made.rare = set(state["rare"])
        return made


class CategoryField(Field):
    """(N,) int64 ids."""

    def parse(self, raw: Any) -> str | None:
        return text_of(raw)

    def fit(self, values: Sequence[str | None]) -> None:
        self.vocabulary = Vocabulary.fitted((value for value in values if value is not None), self.settings.rare)

    def encode(self, values: Sequence[str | None]) -> Column:
        return Column(np.array([self.vocabulary.id(value) for value in values], np.int64))

    @property
    def layout(self) -> Layout:
        return Layout("category", vocabulary=len(self.vocabulary))

    def state(self) -> dict[str, Any]:
        return self.vocabulary.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.vocabulary = Vocabulary.restored(state)


def parse_boolean(raw: Any) -> bool | None:
    """True, False, or None where there is nothing. Raises ``BadValue``."""
    text = text_of(raw)
    if text is None:
        return None
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise BadValue("not yes or no", repr(text[:80]))


class BooleanField(Field):
    """(N,) int64: missing 0, no 1, yes 2."""

    arrow = pa.bool_()

    def parse(self, raw: Any) -> bool | None:
        return parse_boolean(raw)

    def fit(self, values: Sequence[bool | None]) -> None:
        pass

    def encode(self, values: Sequence[bool | None]) -> Column:
        return Column(np.array([0 if value is None else 1 + value for value in values], np.int64))

    @property
    def layout(self) -> Layout:
        return Layout("boolean", vocabulary=3)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def parse_names(raw: Any, separator: str) -> list[str]:
    """The names in a list, a JSON list or a separated text, each once, in order."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            raw = json.loads(raw)
    parts = raw if isinstance(raw, (list, tuple, set)) else (text_of(raw) or "").split(separator)
    return list(dict.fromkeys(name for part in parts if (name := text_of(part))))


class SetField(Field):
    """Ids, ragged: one row per record, of the names that it has."""

    arrow = pa.list_(pa.string())

    def parse(self, raw: Any) -> list[str]:
        return parse_names(raw, self.settings.separator)

    def fit(self, values: Sequence[list[str] | None]) -> None:
        self.vocabulary = Vocabulary.fitted((name for value in values for name in value or ()), self.settings.rare)

    def encode(self, values: Sequence[list[str] | None]) -> Column:
        return ragged([np.array([self.vocabulary.id(n) for n in value or ()] or [MISSING]) for value in values], np.int64)

    @property
    def layout(self) -> Layout:
        return Layout("set", vocabulary=len(self.vocabulary))

    def state(self) -> dict[str, Any]:
        return self.vocabulary.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.vocabulary = Vocabulary.restored(state)
