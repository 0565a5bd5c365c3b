"""Rows (user, item, time) -> histories: one record per user, or one per event with what came before it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.data.fields.base import BadValue, text_of
from treadle.data.fields.events import parse_time
from treadle.data.record import SetAside
from treadle.data.sources.base import Rows
from treadle.spec.data import History

LEFT = "history.left"
"""Column of an event's row: how many events of its user come after it."""


@dataclass(frozen=True)
class _Event:
    time: float
    number: int
    """Of the row: events of one time stand in the order of their rows."""
    item: str
    where: str
    row: Mapping[str, Any]

    @property
    def plain(self) -> dict[str, Any]:
        return {"item": self.item, "time": self.time}


def histories(rows: Rows, wanted: History, name: str) -> Rows:
    """Rows of the source ``name`` gathered by user, in the order of the users' first rows; what was set aside comes first."""
    users: dict[str, list[_Event]] = {}
    for number, (where, row) in enumerate(rows):
        found = row if isinstance(row, SetAside) else _read(row, where, number, wanted)
        if isinstance(found, SetAside):
            yield where, found
        else:
            users.setdefault(str(text_of(found.row[wanted.user])), []).append(found)
    kept: dict[str, list[_Event]] = {}
    for user, events in users.items():
        if len(events) >= wanted.min:
            kept[user] = sorted(events, key=lambda event: (event.time, event.number))
            continue
        places = [f"{name} {wanted.user}={user}"] if wanted.per == "user" else [event.where for event in events]
        for where in places:
            yield where, SetAside(where, "short history", f"{wanted.user}={user} has {len(events)} rows")
    if wanted.per == "user":
        for user, events in kept.items():
            yield f"{name} {wanted.user}={user}", {wanted.user: user, wanted.into: _plain(events, wanted)}
    else:
        yield from _per_event(kept, wanted)


def _read(row: Mapping[str, Any], where: str, number: int, wanted: History) -> _Event | SetAside:
    user, item = text_of(row.get(wanted.user)), text_of(row.get(wanted.item))
    if user is None or item is None:
        return SetAside(where, "no user or item", f"{wanted.user}, {wanted.item}")
    try:
        time = parse_time(row.get(wanted.time)) if wanted.time else float(number)
    except BadValue as error:
        return SetAside(where, "no time", error.detail)
    return SetAside(where, "no time", wanted.time or "") if time is None else _Event(time, number, item, where, row)


def _plain(events: Sequence[_Event], wanted: History) -> list[dict[str, Any]]:
    """As the record holds them; the order of rows is no time."""
    return [event.plain if wanted.time else {"item": event.item} for event in events]


def _per_event(users: Mapping[str, Sequence[_Event]], wanted: History) -> Rows:
    items = sorted({event.item for events in users.values() for event in events})
    shared = _Shared(users, wanted) if wanted.negatives else None
    for user, events in users.items():
        seen = {event.item for event in events}
        draw = random.Random(user)  # not of the project's seed: models of all seeds are then measured by the same records
        for place in range(max(0, len(events) - (wanted.newest or len(events))), len(events)):
            event = events[place]
            known = {wanted.into: _plain(events[max(0, place - wanted.keep) : place], wanted), LEFT: len(events) - 1 - place}
            if shared is None:
                yield event.where, {**event.row, **known}
                continue
            yield event.where, {**shared.row(event, event.item), **known, wanted.answer: "yes"}
            others: dict[str, None] = {}
            while len(others) < min(wanted.negatives, len(items) - len(seen)):
                others |= {other: None} if (other := draw.choice(items)) not in seen else {}
            for other in others:
                where = f"{event.where} with {wanted.item}={other}"
                yield where, {**shared.row(event, other), **known, wanted.answer: "no"}


class _Shared:
    """The columns that a made-up row can have: the user's, the item's, and the time."""

    def __init__(self, users: Mapping[str, Sequence[_Event]], wanted: History) -> None:
        self.wanted = wanted
        events = [event for found in users.values() for event in found]
        columns = {column for event in events for column in event.row}
        self.of_user = [column for column in sorted(columns) if _is_function(column, events, lambda event: event.row[wanted.user])]
        self.items = {event.item: event.row for event in events}
        rest = columns - set(self.of_user)
        self.of_item = [column for column in sorted(rest) if _is_function(column, events, lambda event: event.item)]

    def row(self, event: _Event, item: str) -> dict[str, Any]:
        """``event``'s row with ``item`` in the place of its own."""
        found = {column: self.items[item].get(column) for column in self.of_item}
        found |= {column: event.row.get(column) for column in self.of_user}
        return found | ({self.wanted.time: event.row[self.wanted.time]} if self.wanted.time else {}) | {self.wanted.item: item}


def _is_function(column: str, events: Sequence[_Event], of: Any) -> bool:
    """Whether ``column`` has one value for each value of ``of``."""
    values: dict[Any, Any] = {}
    return all(values.setdefault(of(event), event.row.get(column)) == event.row.get(column) for event in events)
