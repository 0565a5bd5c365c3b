"""Text as token ids, and two texts that belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from treadle.core.layout import Layout
from treadle.data.columns import Column, ragged
from treadle.data.fields.base import BadValue, Field, text_of
from treadle.data.tokenizer import encode_all, make_tokenizer, open_tokenizer


def parse_text(raw: Any) -> str:
    """Text; empty where there is none. Raises ``BadValue`` for what no text can hold."""
    text = text_of(raw) or ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValue("not text", str(error)) from None
    return text


class TextField(Field):
    """Ids, ragged: the first ``context`` tokens of each text; one that has none holds the end mark alone."""

    tokenizer: Tokenizer

    def parse(self, raw: Any) -> str:
        return parse_text(raw)

    def value(self, fields: Mapping[str, Any]) -> str:
        text = " ".join(part for column in self.columns if (part := fields.get(column)))
        return text.lower() if self.settings.lower else text

    def fit(self, values: Sequence[str]) -> None:
        self._learn(values)

    def _learn(self, texts: Iterable[str]) -> None:
        wanted = self.settings.tokenizer
        if wanted.file:
            self.tokenizer = open_tokenizer(Path(wanted.file))
        else:
            self.tokenizer = make_tokenizer(texts, wanted)

    def encode(self, values: Sequence[str]) -> Column:
        return ragged(self._ids(values), np.int64)

    def _ids(self, texts: Sequence[str]) -> list[Any]:
        return [ids[: self.settings.context] or [0] for ids in encode_all(self.tokenizer, texts)]

    @property
    def layout(self) -> Layout:
        return Layout("text", vocabulary=self.tokenizer.get_vocab_size(), length=self.settings.context)

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_str()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.tokenizer = Tokenizer.from_str(state["tokenizer"])
        self.tokenizer.encode_special_tokens = True  # which the text form does not hold


class PairField(TextField):
    """(token, which text) rows, ragged (length, 2): the first text's tokens marked 0, then the second's marked 1."""

    def value(self, fields: Mapping[str, Any]) -> tuple[str, str]:  # type: ignore[override]
        one, two = (str(fields.get(column) or "") for column in self.columns)
        return (one.lower(), two.lower()) if self.settings.lower else (one, two)

    def fit(self, values: Sequence[tuple[str, str]]) -> None:  # type: ignore[override]
        self._learn(text for pair in values for text in pair)

    def encode(self, values: Sequence[tuple[str, str]]) -> Column:  # type: ignore[override]
        both = [self._ids([pair[which] for pair in values]) for which in (0, 1)]
        rows = [
            np.array([[id, which] for which, ids in enumerate(pair) for id in ids], np.int64).reshape(-1, 2)
            for pair in zip(*both, strict=True)
        ]
        return ragged(rows, np.int64, (2,))

    @property
    def layout(self) -> Layout:
        return Layout("pair", vocabulary=self.tokenizer.get_vocab_size(), length=2 * self.settings.context)
