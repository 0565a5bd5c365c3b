"""Rows of users and items gathered into histories."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from treadle.data.record import SetAside
from treadle.data.sources.history import LEFT, histories
from treadle.spec.data import History

ROWS = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdef"), st.integers(0, 5)), max_size=40)


def gather(rows, **wanted):
    given = [(f"f:{n}", {"user": u, "item": i, "time": t, "note": n, "age": ord(u)}) for n, (u, i, t) in enumerate(rows)]
    return list(histories(given, History(user="user", item="item", time="time", into="past", **wanted), "f"))


@given(ROWS)
def test_each_user_has_one_record_with_every_event_in_order(rows):
    found = gather(rows, min=3)
    counts = Counter(user for user, _, _ in rows)
    kept = {row["user"]: row["past"] for _, row in found if not isinstance(row, SetAside)}
    aside = [row for _, row in found if isinstance(row, SetAside)]
    assert set(kept) == {user for user, count in counts.items() if count >= 3}
    assert len(aside) == len(counts) - len(kept)
    for user, past in kept.items():
        own = sorted((t, n, i) for n, (u, i, t) in enumerate(rows) if u == user)
        assert [(event["time"], event["item"]) for event in past] == [(t, i) for t, _, i in own]


@settings(max_examples=40)
@given(ROWS, st.integers(1, 3), st.integers(1, 4))
def test_an_event_is_told_with_what_came_before_it_and_nothing_else(rows, keep, newest):
    found = [row for _, row in gather(rows, min=1, per="event", keep=keep, newest=newest)]
    for user in {user for user, _, _ in rows}:
        own = [i for _, _, i in sorted((t, n, i) for n, (u, i, t) in enumerate(rows) if u == user)]
        mine = [row for row in found if row["user"] == user]
        assert [row["item"] for row in mine] == own[-newest:]
        assert [row[LEFT] for row in mine] == list(range(len(mine) - 1, -1, -1))
        for row in mine:
            place = len(own) - 1 - row[LEFT]
            assert [event["item"] for event in row["past"]] == own[max(0, place - keep) : place]


@settings(max_examples=40)
@given(ROWS, st.integers(1, 3))
def test_made_up_records_name_items_that_the_user_never_had_and_share_the_history(rows, negatives):
    found = [row for _, row in gather(rows, min=1, per="event", negatives=negatives)]
    assert found == [row for _, row in gather(rows, min=1, per="event", negatives=negatives)]
    items = {item for _, item, _ in rows}
    had = {user: {i for u, i, _ in rows if u == user} for user, _, _ in rows}
    for yes in (row for row in found if row["chosen"] == "yes"):
        beside = [r for r in found if r["chosen"] == "no" and (r["user"], r[LEFT]) == (yes["user"], yes[LEFT])]
        assert len({row["item"] for row in beside}) == len(beside) == min(negatives, len(items - had[yes["user"]]))
        for row in beside:
            assert row["item"] not in had[row["user"]]
            assert (row["past"], row["time"], row["age"]) == (yes["past"], yes["time"], yes["age"])


def test_columns_of_the_choice_itself_are_not_made_up():
    cells = [("u", "a", 1, 5, 30, "x"), ("u", "b", 2, 4, 30, "y"), ("v", "a", 1, 3, 40, "x"), ("v", "c", 2, 5, 40, "z")]
    rows = [{"user": u, "item": i, "time": t, "rating": r, "age": a, "genre": g} for u, i, t, r, a, g in cells]
    wanted = History(user="user", item="item", time="time", per="event", negatives=1, min=1)
    found = [row for _, row in histories([(str(n), row) for n, row in enumerate(rows)], wanted, "f")]
    assert all("rating" not in row for row in found)
    genres = {"a": "x", "b": "y", "c": "z"}
    assert all(row["genre"] == genres[row["item"]] and row["age"] == {"u": 30, "v": 40}[row["user"]] for row in found)
    assert {(row["user"], row["item"]) for row in found if row["chosen"] == "no"} == {("u", "c"), ("v", "b")}


def test_rows_without_user_item_or_time_are_set_aside():
    rows = [{"user": user, "item": "a", "time": time} for user, time in ((None, 1), ("u", "soon"), ("u", None))]
    wanted = History(user="user", item="item", time="time")
    found = [row for _, row in histories([(str(n), row) for n, row in enumerate(rows)], wanted, "f")]
    assert [row.reason for row in found] == ["no user or item", "no time", "no time"]


def test_negatives_without_events_are_refused():
    with pytest.raises(ValidationError, match="per: event"):
        History(user="u", item="i", negatives=2)
