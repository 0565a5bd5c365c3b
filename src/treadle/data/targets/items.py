"""The item that follows in a history. N rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.core.layout import Layout
from treadle.data.columns import Array, Column, ragged
from treadle.data.fields.base import Field
from treadle.data.fields.events import EventsField
from treadle.data.targets.base import Target


class NextItemTarget(Target):
    """Ids, ragged, **the newest first**: what followed the newest event of the row's history, then what followed the one before,
    for as many events as are asked about."""

    history: EventsField

    def meet(self, inputs: Mapping[str, Field]) -> None:
        self.history = next(field for field in inputs.values() if isinstance(field, EventsField))

    def parse(self, raw: Any) -> None:
        return None

    def value(self, fields: Mapping[str, Any]) -> list[str]:
        found: list[str] = fields.get(self.name) or []
        return found

    def rows(self, fields: Mapping[str, Any], training: bool) -> list[Mapping[str, Any]]:
        """A record's history as what is known and what follows. To train on, each event but the first follows once, with at least
        half the context before it where there are as many; else the last one follows all others."""
        column, context = self.history.columns[0], self.history.settings.context
        events = fields[column] or []
        found: list[Mapping[str, Any]] = []
        end = len(events) - 1
        while end > 0:
            start = max(0, end - context) if training else 0
            asked = 1 if not training else end if start == 0 else min(end, (context + 1) // 2)
            follow = [event["item"] for event in reversed(events[end - asked + 1 : end + 1])]
            found.append({**fields, column: events[start:end], self.name: follow})
            end = end - asked if training else 0
        return found

    def answered(self, raw: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """The history goes on with the item."""
        column = self.history.columns[0]
        events = self.history.parse(raw.get(column))
        return {column: self.history.parse([*events, {"item": answer, "time": events[-1]["time"] if events else None}])}

    def fit(self, values: Sequence[Any]) -> None:
        pass

    def encode(self, values: Sequence[Sequence[str]]) -> Column:
        return ragged([np.array([self.history.item(name) for name in value], np.int64) for value in values], np.int64)

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From (N, K, 2): item and its probability, the likeliest first."""
        names = {id: name for name, id in self.history.vocabulary.ids.items()}
        found = []
        for row in outputs:
            shares = {names[int(id)]: round(float(p), 6) for id, p in row if p > 0}
            found.append({"answer": next(iter(shares), None), "probabilities": shares})
        return found

    @property
    def layout(self) -> Layout:
        asked = self.settings
        options = {"weight": asked.weight, "negatives": asked.negatives, "repeats": asked.repeats, "items": self.history.name}
        return Layout("next_item", vocabulary=len(self.history.vocabulary), options=options)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass
