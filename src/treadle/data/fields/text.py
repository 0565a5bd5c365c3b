"""Text as token ids, and two texts that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from treadle.core.layout import Layout
from treadle.core.paths import find_path
from treadle.data.columns import Array, Augment, Column, Numbers, ragged
from treadle.data.fields.base import BadValue, Field, text_of
from treadle.data.tokenizer import make_tokenizer, open_tokenizer, restore_tokenizer

_BATCH = 256  # texts encoded at once


def parse_text(raw: Any, whole: bool = False) -> str:
    """Text without spaces around it, or ``whole`` with them; empty where there is none; of a file its content, in UTF-8. Raises
    ``BadValue`` for what no text can hold."""
    if isinstance(raw, Mapping) and isinstance(raw.get("bytes"), bytes):
        try:
            raw = raw["bytes"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadValue("encoding", f"not UTF-8: byte {error.start}") from None
    text = raw if whole and isinstance(raw, str) else text_of(raw) or ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValue("not text", str(error)) from None
    return text


@dataclass(frozen=True)
class Places:
    """Where the tokens of a text stand in it."""

    at: Array
    """(T, 2) start and end of each token that is read (characters), without spaces around it; of a mark, or of mere spaces, nothing
    lies between them."""
    cut: bool
    """Whether the text goes on behind the last one."""


class TextField(Field):
    """Ids, ragged: the first ``context`` tokens of each text, the marks of a tokenizer from a file among them; a text without any
    token holds the id 0 alone."""

    tokenizer: Tokenizer
    given: Tokenizer | None = None
    """That of an earlier model; None: as the settings say."""
    whole: bool = False
    """Spaces around the text belong to it, since an answer counts its characters."""
    frequencies: list[int]
    """How often each token stands in the train part; empty where nothing is drawn by it."""

    def find(self, folder: Path) -> None:
        if self.settings.tokenizer.file:
            self.tokenizer = open_tokenizer(find_path(self.settings.tokenizer.file, folder))

    def parse(self, raw: Any) -> str:
        return parse_text(raw, self.whole)

    def value(self, fields: Mapping[str, Any]) -> str:
        text = " ".join(part for column in self.columns if (part := fields.get(column)))
        return text.lower() if self.settings.lower else text

    def fit(self, values: Sequence[str]) -> None:
        self._learn(values)

    def _learn(self, texts: Sequence[str]) -> None:
        if self.given:
            self.tokenizer = self.given
        elif not self.settings.tokenizer.file:
            self.tokenizer = make_tokenizer(texts, self.settings.tokenizer)
        self.frequencies = []
        if self.settings.augment.back_off:
            ids = np.concatenate([np.asarray(encoding.ids, np.int64) for encoding in self._encodings(texts)])
            self.frequencies = np.bincount(ids, minlength=self.tokenizer.get_vocab_size()).tolist()

    def encode(self, values: Sequence[str]) -> Column:
        most = self.settings.context - self._marks(False)
        rows = [np.array(self._whole(encoding, None, most).ids or [0], np.int64) for encoding in self._encodings(values)]
        return ragged(rows, np.int64)

    def places(self, texts: Sequence[str]) -> list[Places]:
        """Of each text as it came, where the tokens stand that ``encode`` gives."""
        most = self.settings.context - self._marks(False)
        asked = [text.lower() for text in texts] if self.settings.lower else texts
        found = []
        for text, read, encoding in zip(texts, asked, self._encodings(asked, self.tokenizer.encode_batch), strict=True):
            cut = len(encoding) > max(1, most)
            at = np.array(self._whole(encoding, None, most).offsets or [(0, 0)], np.int64)
            if len(read) != len(text):  # one capital has two small letters
                owner = np.repeat(np.arange(len(text) + 1), [*(len(letter.lower()) for letter in text), 1])
                start, end = at.T
                at = np.stack([owner[start], np.where(end > start, owner[np.maximum(end - 1, 0)] + 1, owner[start])], 1)
            found.append(Places(np.array([_without_spaces(text, start, end) for start, end in at.tolist()], np.int64), cut))
        return found

    @property
    def marks(self) -> tuple[int, int]:
        """How many marks stand before and behind a text."""
        if not self._marks(False):
            return 0, 0
        (encoding,) = self._encodings(["a"])
        special = self._whole(encoding, None, 1).special_tokens_mask
        return special.index(0), special[::-1].index(0)

    def _encodings(self, texts: Iterable[str], encode: Callable[..., list[Encoding]] | None = None) -> list[Encoding]:
        """Of each text, without marks; ``encode_batch_fast`` does not say where tokens stand."""
        listed, encode = list(texts), encode or self.tokenizer.encode_batch_fast
        parts = [listed[start : start + _BATCH] for start in range(0, len(listed), _BATCH)]
        return [encoding for part in parts for encoding in encode(part, add_special_tokens=False)]

    def _marks(self, pair: bool) -> int:
        """How many marks the tokenizer sets around a text, or a pair of them."""
        return int(self.tokenizer.num_special_tokens_to_add(pair)) if self.settings.tokenizer.file else 0

    def _whole(self, one: Encoding, two: Encoding | None, most: int) -> Encoding:
        """One text or two, of ``most`` tokens each, with the marks of a tokenizer from a file."""
        for encoding in (one, two):
            if encoding is not None:
                encoding.truncate(max(1, most))
        return self.tokenizer.post_process(one, two, add_special_tokens=bool(self.settings.tokenizer.file))

    def change(self, seed: int) -> Augment | None:
        settings = self.settings.augment
        if not (settings.drop or settings.back_off):
            return None
        total = np.cumsum(self.frequencies) if self.frequencies else np.ones(1, np.int64)
        unknown = getattr(self.tokenizer.model, "unk_token", None)  # a word like any other
        added = self.tokenizer.get_added_tokens_decoder().items()
        fixed = [id for id, token in added if token.special and token.content != unknown]

        def change(values: Array, lengths: Numbers | None, numbers: Numbers) -> tuple[Array, Numbers | None]:
            assert lengths is not None
            rows = []
            for row, length, number in zip(values, lengths, numbers, strict=True):
                row = row[:length].copy()
                ids = row[:, 0] if row.ndim == 2 else row  # a view
                free = ~np.isin(ids, fixed)
                random = np.random.default_rng([seed, int(number)])
                if settings.back_off:
                    swap = free & (random.random(length) < settings.back_off)
                    drawn = random.integers(0, max(1, total[-1]), length)
                    ids[swap] = np.searchsorted(total, drawn, "right")[swap]
                keep = ~free | (random.random(length) >= settings.drop)
                rows.append(row[_with_one(keep, free, row, random)])
            column = ragged(rows, values.dtype, values.shape[2:])
            return column.rows(np.arange(len(rows), dtype=np.int64))

        return change

    @property
    def layout(self) -> Layout:
        return Layout("text", vocabulary=self.tokenizer.get_vocab_size(), length=self.settings.context)

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_str()} | ({"frequencies": self.frequencies} if self.frequencies else {})

    def restore(self, state: Mapping[str, Any]) -> None:
        self.tokenizer = restore_tokenizer(state["tokenizer"])
        self.frequencies = list(state.get("frequencies", []))


def _without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _with_one(keep: Array, free: Array, row: Array, random: np.random.Generator) -> Array:
    """``keep``, with one word of each text in ``row`` kept at least."""
    which = row[:, 1] if row.ndim == 2 else np.zeros(len(row), np.int64)
    for text in np.unique(which):
        own = np.flatnonzero(free & (which == text))
        if len(own) and not keep[own].any():
            keep[own[random.integers(len(own))]] = True
    return keep


class PairField(TextField):
    """(token, which text) rows, ragged (length, 2): the first text's tokens marked 0, then the second's marked 1."""

    apart: bool = False
    """Each text has the marks of a text that stands alone, since each is read by itself."""

    def value(self, fields: Mapping[str, Any]) -> tuple[str, str]:  # type: ignore[override]
        one, two = (str(fields.get(column) or "") for column in self.columns)
        return (one.lower(), two.lower()) if self.settings.lower else (one, two)

    def fit(self, values: Sequence[tuple[str, str]]) -> None:  # type: ignore[override]
        self._learn([text for pair in values for text in pair])

    def encode(self, values: Sequence[tuple[str, str]]) -> Column:  # type: ignore[override]
        both = (self._encodings([pair[which] for pair in values]) for which in (0, 1))
        return ragged([self._pair(one, two) for one, two in zip(*both, strict=True)], np.int64, (2,))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it stands alone, marks included, also where they are more than are read."""
        asked = [text.lower() for text in texts] if self.settings.lower else texts
        return [max(1, len(encoding)) + self._marks(False) for encoding in self._encodings(asked)]

    def _pair(self, one: Encoding, two: Encoding) -> Array:
        most = self.settings.context - (self._marks(False) if self.apart else 0)
        if self._marks(True) and not self.apart:
            whole = self._whole(one, two, most)
            return np.array([whole.ids, whole.type_ids], np.int64).T
        rows = [(id, which) for which, text in enumerate((one, two)) for id in self._whole(text, None, most).ids or [0]]
        return np.array(rows, np.int64)

    @property
    def layout(self) -> Layout:
        length = self.settings.context if self.apart else 2 * self.settings.context + self._marks(True)
        return Layout("pair", vocabulary=self.tokenizer.get_vocab_size(), length=length)
