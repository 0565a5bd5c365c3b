"""Spans of a text with a label each, as a tag for every token. N records, T tokens, S spans."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.data.columns import Array, Column, ragged
from treadle.data.fields.base import BadValue, Field, text_of
from treadle.data.fields.text import Places, TextField
from treadle.data.spans import shift, spans_of, tag
from treadle.data.steps.redact import Moves
from treadle.data.targets.base import Target
from treadle.spec.heads import SpanKeys

Labelled = Mapping[str, Any]
"""``start``, ``end``, ``label``; until it is held against its text, ``text`` where the data says it."""
Value = tuple[str, Sequence[Labelled] | None]
"""The text and its spans."""

_PLACEHOLDER = re.compile("<[A-Z]+(_[A-Z]+)*>")


def parse_spans(raw: Any, keys: SpanKeys) -> list[Labelled] | None:
    """A list of spans, or its JSON text, from left to right; None where there is none. Raises ``BadValue``."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else None
        except ValueError as error:
            raise BadValue("not spans", str(error)) from None
    if raw is None or (isinstance(raw, float) and raw != raw):
        return None
    if not isinstance(raw, (list, tuple)):
        raise BadValue("not spans", f"{type(raw).__name__}, where a list of {{start, end, label}} is wanted")
    return sorted((_span(entry, keys) for entry in raw), key=lambda span: (span["start"], span["end"]))


def _span(entry: Any, keys: SpanKeys) -> Labelled:
    if not isinstance(entry, Mapping):
        raise BadValue("not spans", f"{str(entry)[:80]!r}, where {{start, end, label}} is wanted")
    # Answers, which come back as feedback, have our own names.
    names = {own: own if own in entry and theirs not in entry else theirs for own, theirs in keys.model_dump().items()}
    absent = [name for own, name in names.items() if own != "text" and entry.get(name) is None]
    if absent:
        raise BadValue("not spans", f"a span without {absent[0]!r}; it has {', '.join(map(repr, entry))}")
    found: dict[str, Any] = {own: _whole_number(entry[names[own]], own) for own in ("start", "end")}
    found["label"] = text_of(entry[names["label"]])
    if not found["label"]:
        raise BadValue("not spans", "a span whose label is empty")
    return found | ({"text": str(entry[names["text"]])} if entry.get(names["text"]) is not None else {})


class TagsTarget(Target):
    """Rows (number, start, end), ragged (T + S, 3): first the tokens that the text's input reads, each with 1 + its tag (see
    ``data/spans``) and the characters that it stands for; then all spans as the data has them, each with -1 - its label's number.
    0, which also fills up rows, is a token without a right answer: a mark, or one of a label that the train part lacks."""

    arrow = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())]))
    text: TextField

    def meet(self, inputs: Mapping[str, Field]) -> None:
        found = [field for name, field in inputs.items() if isinstance(field, TextField) and self.settings.input in (None, name)]
        self.text = found[0]
        self.text.whole = True

    def parse(self, raw: Any) -> list[Labelled] | None:
        return parse_spans(raw, self.settings.keys)

    def agree(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The spans held against their text. Raises ``BadValue`` for one that is empty, lies outside, or overlaps another."""
        (column,), text = self.columns, fields[self.text.columns[0]] or ""
        if fields[column] is None:
            return {}
        for span in fields[column]:
            start, end = span["start"], span["end"]
            if start >= end:
                raise BadValue("empty span", f"from {start} to {end}")
            if start < 0 or end > len(text):
                raise BadValue("span outside the text", f"from {start} to {end}, the text has {len(text)} characters")
            if span.get("text", text[start:end]) != text[start:end]:
                raise BadValue("span of another text", f"{text[start:end]!r} stands from {start} to {end}, not {span['text']!r}")
        for one, two in pairwise(fields[column]):
            if two["start"] < one["end"]:
                raise BadValue("overlapping spans", f"{one['start']} to {one['end']} and {two['start']} to {two['end']}")
        return {column: [{key: span[key] for key in ("start", "end", "label")} for span in fields[column]]}

    def moved(self, answer: Any, column: str, moves: Moves) -> Any:
        return answer if column != self.text.columns[0] else moved_spans(answer, moves)

    def value(self, fields: Mapping[str, Any]) -> Value:
        return fields.get(self.text.columns[0]) or "", fields.get(self.columns[0])

    def fit(self, values: Sequence[Value]) -> None:
        self.labels = sorted({span["label"] for _, spans in values for span in spans or ()})
        if not self.labels:
            raise UserError(f"head {self.name!r}: no record of the train part has a span", cure="name another field")

    def remarks(self, values: Sequence[Value]) -> list[str]:
        total = off = behind = hidden = 0
        such = ""
        places = self.text.places([text for text, _ in values])
        for (text, spans), place in zip(values, places, strict=True):
            known = {(start, end) for (start, end, _), _ in spans_of(tag(place.at, self._numbered(spans)), place.at)}
            last = int(place.at[:, 1].max())
            for span in spans or ():
                total += 1
                hidden += bool(_PLACEHOLDER.search(text, span["start"], span["end"]))
                behind += (cut := place.cut and span["end"] > last)
                if not cut and (span["start"], span["end"]) not in known:
                    off, such = off + 1, such or text[span["start"] : span["end"]]
        longer, notes = sum(place.cut for place in places), []
        if longer:
            context = self.text.settings.context
            notes.append(f"{longer} of {len(values)} texts are longer than {context} tokens, of which the beginning is read: "
                         f"{behind} of {total} spans of {self.name!r} stand behind it and cannot be found")
        if off:
            notes.append(f"{off} of {total} spans of {self.name!r} do not begin and end where tokens do, such as {such[:40]!r}: "
                         "they cannot be found exactly; smaller tokens, or characters, can")
        if hidden:
            notes.append(f"{hidden} of {total} spans of {self.name!r} hold a placeholder such as <EMAIL>, which the model will not "
                         "meet when it answers: say 'clean: {pii: keep, secrets: keep}' to learn from what stood there")
        return notes

    def _numbered(self, spans: Sequence[Labelled] | None) -> list[tuple[int, int, int]]:
        """Labels as numbers; one that the train part lacks has the number behind the last."""
        ids = {label: number for number, label in enumerate(self.labels)}
        return [(span["start"], span["end"], ids.get(span["label"], len(ids))) for span in spans or ()]

    def encode(self, values: Sequence[Value]) -> Column:
        places = self.text.places([text for text, _ in values])
        rows = [self._row(spans, place) for (_, spans), place in zip(values, places, strict=True)]
        return ragged(rows, np.int64, (3,))

    def _row(self, spans: Sequence[Labelled] | None, place: Places) -> Array:
        numbered, most = self._numbered(spans), 2 * len(self.labels)
        tags = tag(place.at, numbered)
        before, behind = self.text.marks
        inside = np.arange(len(tags))
        known = (inside >= before) & (inside < len(tags) - behind) & (tags <= most) & (spans is not None)
        tokens = np.concatenate([np.where(known, tags + 1, 0)[:, None], place.at], 1)
        spoken = np.array([(-1 - kind, start, end) for start, end, kind in numbered], np.int64)
        return np.concatenate([tokens, spoken.reshape(-1, 3)])

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From (N, T, 2): 1 + the tag of each token, and its probability. They are spans in the text that they are ``about``."""
        return [{"answer": row.tolist()} for row in outputs]

    def about(self, answer: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The spans. The probability of one is that of all its tokens' tags together. ``read`` is there where the text is longer
        than what is read: how many characters that is."""
        text = fields.get(self.text.columns[0]) or ""
        (place,), given = self.text.places([text]), np.array(answer["answer"])
        spans = [
            {"start": start, "end": end, "label": self.labels[kind], "text": text[start:end],
             "probability": round(float(given[held, 1].prod()), 6)}
            for (start, end, kind), held in spans_of((given[:, 0].astype(np.int64) - 1).tolist(), place.at)
        ]
        return {"answer": spans} | ({"read": int(place.at[:, 1].max())} if place.cut else {})

    @property
    def layout(self) -> Layout:
        options = {"weight": self.settings.weight, "input": self.text.name, "marks": list(self.text.marks)}
        return Layout("tags", vocabulary=1 + 2 * len(self.labels), options=options)

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels = list(state["labels"])


def moved_spans(spans: Sequence[Labelled], moves: Moves) -> list[Labelled]:
    """The bare spans after ``moves`` in their text."""
    found: list[Labelled] = []
    for span in spans:
        start, end = shift(span["start"], span["end"], moves)
        found.append({"start": start, "end": end, "label": span["label"]})
    return found


def _whole_number(raw: Any, key: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not math.isfinite(raw) or int(raw) != raw:
        raise BadValue("not spans", f"{key} is {str(raw)[:40]!r}, not a number of characters")
    return int(raw)
