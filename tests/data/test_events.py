"""Histories as values: what is read, in which order, and as which numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.data.fields.base import BadValue
from treadle.data.fields.events import EventsField, ItemField, parse_events
from treadle.spec.inputs import Category, Events

ENTRIES = st.lists(st.fixed_dictionaries({"item": st.text("abc", min_size=1, max_size=2), "time": st.floats(0, 1e9)}), max_size=12)


@given(ENTRIES)
def test_a_history_stands_in_the_order_of_its_times_however_it_is_written(entries):
    wanted = sorted(entries, key=lambda entry: entry["time"])  # stable: equal times stay in their order
    assert parse_events(entries) == parse_events(json.dumps(entries)) == wanted


def test_items_alone_and_dates_are_read():
    assert [event["item"] for event in parse_events(["b", 7, "a"])] == ["b", "7", "a"]
    dated = parse_events([{"item": "late", "time": "2024-03-02"}, {"item": "early", "time": "2024-03-01"}])
    assert [event["item"] for event in dated] == ["early", "late"]
    assert dated[1]["time"] - dated[0]["time"] == 86_400
    assert parse_events(None) == parse_events("") == []


@pytest.mark.parametrize("raw", ["a, b", 5, [{"time": 3}], [["a"]], [{"item": "a", "time": 1}, {"item": "b"}], '{"item": "a"}',
                                 [{"item": "a", "time": "no date"}], [{"item": "a", "time": math.inf}]])
def test_what_is_no_history_is_refused(raw):
    with pytest.raises(BadValue):
        parse_events(raw)


def field(rare: int = 1) -> EventsField:
    return EventsField("history", Events(context=3, rare=rare), ("history",))


def test_items_and_gaps_become_ids_and_rare_stands_for_what_was_never_seen():
    made = field(rare=2)
    made.fit([parse_events(["a", "a", "b", "b", "b", "c"]), None])
    assert (made.item("b"), made.item("a"), made.item("c"), made.item("never"), made.item(None)) == (3, 4, 2, 2, 0)
    column = made.encode([parse_events([{"item": "a", "time": t} for t in (0, 0, 1, 4, 10**12)]), None, parse_events(["b"])])
    first, second, third = (column.values[a:b].tolist() for a, b in zip(column.starts[:-1], column.starts[1:], strict=True))
    # gaps 0, 1, 3 and more than 2^32 seconds: 1 + floor(log2(1 + gap)), up to 33
    assert first == [[4, 0], [4, 1], [4, 2], [4, 3], [4, 33]]
    assert second == [[0, 0]]
    assert third == [[3, 0]]
    again = field(rare=2)
    again.restore(json.loads(json.dumps(made.state())))
    assert np.array_equal(again.encode([parse_events(["c", "a"])]).values, made.encode([parse_events(["c", "a"])]).values)


def test_an_offered_item_has_the_ids_of_the_history():
    made = field()
    made.fit([parse_events(["a", "b", "b"])])
    item = ItemField("offer", Category(items="history"), ("offer",))
    item.meet({"history": made, "offer": item})
    assert item.encode(["a", "b", "new", None]).values.tolist() == [made.item("a"), made.item("b"), 2, 0]
    assert item.layout.vocabulary == made.layout.vocabulary
