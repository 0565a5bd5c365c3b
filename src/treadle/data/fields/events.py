"""A history: items in the order of their times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.layout import Layout
from treadle.data.columns import Array, Column, ragged
from treadle.data.fields.base import BadValue, Field, text_of
from treadle.data.fields.category import MISSING, RARE, Vocabulary
from treadle.data.fields.date import parse_moment

Event = Mapping[str, Any]
"""``item``, a text, and ``time`` in seconds since 1970, or None where the history has no times."""

BUCKETS = 34
"""0: no gap is known; 1 + k: a gap of 2^k - 1 seconds at least, up to 2^32."""


def parse_events(raw: Any) -> list[Event]:
    """A list of items or of {item, time}, or its JSON text, as events in the order of their times, without times as given. Raises
    ``BadValue``."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else []
        except ValueError as error:
            raise BadValue("not a history", str(error)) from None
    if not isinstance(raw, (list, tuple, type(None))):
        raise BadValue("not a history", f"{type(raw).__name__}, where a list of items or of {{item, time}} is wanted")
    events = [_event(entry) for entry in raw or ()]
    timed = sum(event["time"] is not None for event in events)
    if 0 < timed < len(events):
        raise BadValue("not a history", f"{timed} of {len(events)} events have a time")
    return sorted(events, key=lambda event: event["time"]) if timed else events


def _event(entry: Any) -> Event:
    known = entry if isinstance(entry, Mapping) else {"item": entry}
    item, time = known.get("item"), known.get("time")
    name = None if isinstance(item, (list, tuple, dict)) else text_of(item)
    if name is None:
        raise BadValue("not a history", f"an event without an item: {str(entry)[:80]}")
    return {"item": name, "time": parse_time(time)}


def parse_time(raw: Any) -> float | None:
    """A number as it is, a date as seconds since 1970, or None where there is nothing. Raises ``BadValue``."""
    if isinstance(raw, (list, tuple, Mapping)):
        raise BadValue("not a time", str(raw)[:80])
    try:
        found: float | None = float(raw) if isinstance(raw, (int, float)) else parse_moment(raw)
    except OverflowError:
        raise BadValue("not a time", "a number that is too large") from None
    if found is not None and math.isinf(found):
        raise BadValue("not a time", str(raw))
    return None if found is None or math.isnan(found) else found


class EventsField(Field):
    """(item, bucket of the gap to the event before) rows, ragged (length, 2): all events, of which the model reads the newest
    ``context``, and by all of which it knows what was seen. An empty history is one missing item."""

    arrow = pa.list_(pa.struct([("item", pa.string()), ("time", pa.float64())]))

    def parse(self, raw: Any) -> list[Event]:
        return parse_events(raw)

    def fit(self, values: Sequence[Sequence[Event] | None]) -> None:
        items = (event["item"] for value in values for event in value or ())
        self.vocabulary = Vocabulary(Vocabulary.fitted(items, self.settings.rare).names)

    def item(self, name: str | None) -> int:
        """An item's id: never seen is rare too, since no vector is learned for what was never seen."""
        return MISSING if name is None else self.vocabulary.ids.get(name, RARE)

    def encode(self, values: Sequence[Sequence[Event] | None]) -> Column:
        return ragged([self._row(value or ()) for value in values], np.int64, (2,))

    def _row(self, events: Sequence[Event]) -> Array:
        if not events:
            return np.array([[MISSING, 0]])
        times = np.array([np.nan if event["time"] is None else event["time"] for event in events], np.float64)
        gaps = np.diff(times, prepend=np.nan).clip(0, 2.0**32)
        buckets = np.where(np.isnan(gaps), 0, 1 + np.floor(np.log2(1 + np.nan_to_num(gaps))))
        return np.stack([np.array([self.item(event["item"]) for event in events]), buckets.astype(np.int64)], 1)

    @property
    def layout(self) -> Layout:
        return Layout("events", vocabulary=len(self.vocabulary), length=self.settings.context, channels=BUCKETS)

    def state(self) -> dict[str, Any]:
        return {"names": self.vocabulary.names}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.vocabulary = Vocabulary(state["names"])


class ItemField(Field):
    """(N,) int64 ids, in the vocabulary of a history's items."""

    history: EventsField

    def meet(self, inputs: Mapping[str, Field]) -> None:
        found = inputs[self.settings.items]
        assert isinstance(found, EventsField)
        self.history = found

    def parse(self, raw: Any) -> str | None:
        return text_of(raw)

    def fit(self, values: Sequence[str | None]) -> None:
        pass

    def encode(self, values: Sequence[str | None]) -> Column:
        return Column(np.array([self.history.item(value) for value in values], np.int64))

    @property
    def layout(self) -> Layout:
        return Layout("item", vocabulary=len(self.history.vocabulary), options={"items": self.history.name})

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass
