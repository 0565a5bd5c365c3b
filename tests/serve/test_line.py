"""Whose turn it is: by priority, then each key by its share; and a key that fills the line keeps no other out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.serve.line import Asker, Line
from treadle.serve.version import Full


@dataclass(eq=False)
class Item:
    asker: Asker
    name: int = 0


def served(line: Line[Item], turns: int, cost: dict[str, int]) -> Counter[str]:
    """How much each key got of ``turns`` turns, where whoever has had one joins again at once."""
    found: Counter[str] = Counter()
    for _ in range(turns):
        item = line.next()
        assert item is not None
        line.begin(item)
        amount = cost[item.asker.key]
        line.charge(item.asker, amount)
        found[item.asker.key] += amount
        line.end(item.asker)
        line.join(Item(item.asker), 0, 1)
    return found


def test_keys_get_like_shares_however_many_ask_and_however_much_each_asks() -> None:
    line: Line[Item] = Line(100)
    for _ in range(30):
        line.join(Item(Asker("greedy")), 0, 1)
    for key in ("small", "large"):
        line.join(Item(Asker(key)), 0, 1)
    found = served(line, 3000, {"greedy": 10, "small": 10, "large": 100})
    mean = sum(found.values()) / 3
    assert all(abs(got - mean) <= 200 for got in found.values()), found


def test_a_weight_of_three_is_three_times_the_share() -> None:
    line: Line[Item] = Line(100)
    for key, weight in (("one", 1.0), ("three", 3.0)):
        for _ in range(5):
            line.join(Item(Asker(key, weight)), 0, 1)
    found = served(line, 4000, {"one": 7, "three": 7})
    assert found["three"] / found["one"] == pytest.approx(3, rel=0.01)


def test_a_key_that_comes_back_makes_nothing_up_and_one_that_was_served_much_is_not_held_to_it_alone() -> None:
    line: Line[Item] = Line(100)
    for _ in range(4):
        line.join(Item(Asker("steady")), 0, 1)
    served(line, 500, {"steady": 10})
    for _ in range(4):
        line.join(Item(Asker("new")), 0, 1)
    found = served(line, 20, {"steady": 10, "new": 10})
    assert found == {"steady": 100, "new": 100}
    for item in line:
        line.leave(item)
    line.join(Item(Asker("steady")), 0, 1)
    line.join(Item(Asker("new")), 0, 1)
    assert [item.asker.key for item in line] == ["steady", "new"]
    first = line.next()
    assert first is not None
    assert first.asker.key == "steady"


def test_what_is_more_pressing_goes_first_and_takes_the_place_of_what_is_not() -> None:
    line: Line[Item] = Line(3)
    batch = [Item(Asker(priority=5), 0), Item(Asker(priority=9), 1), Item(Asker(priority=9), 2)]
    for item in batch:
        assert line.join(item, 0, 1) is None
    now = Item(Asker("other"), 3)
    assert line.join(now, 0, 1) is batch[2]
    assert line.next() is now
    with pytest.raises(Full):
        line.join(Item(Asker(priority=9)), 0, 1)


def test_a_key_that_fills_the_line_keeps_no_other_out_and_is_asked_back_later() -> None:
    line: Line[Item] = Line(8)
    greedy = [Item(Asker("greedy"), place) for place in range(8)]
    for item in greedy:
        line.join(item, 0, 1)
    with pytest.raises(Full) as raised:
        line.join(Item(Asker("greedy")), 0, 2.0)
    assert raised.value.retry_after == 18
    for place in range(4):
        assert line.join(Item(Asker("modest"), place), 0, 1) is greedy[7 - place]
    with pytest.raises(Full):  # each has half of it by now
        line.join(Item(Asker("modest")), 0, 1)
    assert Counter(item.asker.key for item in line) == {"greedy": 4, "modest": 4}


def test_room_beside_the_line_is_taken_first() -> None:
    line: Line[Item] = Line(0)
    assert line.join(Item(Asker()), 1, 1) is None
    with pytest.raises(Full):
        line.join(Item(Asker()), 1, 1)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_it_holds_no_more_than_it_may_loses_none_and_keeps_the_order_of_each_key(seed: int, most: int) -> None:
    random_ = random.Random(seed)
    line: Line[Item] = Line(most)
    inside: list[Item] = []
    begun: list[Item] = []
    for name in range(120):
        what = random_.random()
        if what < 0.6:
            item = Item(Asker(random_.choice("abc"), random_.choice([1.0, 2.0]), random_.choice([0, 0, 1])), name)
            try:
                out = line.join(item, 0, 1)
            except Full:
                assert len(inside) == most
                continue
            inside.append(item)
            if out is not None:
                assert len(inside) == most + 1
                assert out.asker.priority >= item.asker.priority
                inside.remove(out)
        elif inside and what < 0.9:
            item = line.next() or inside[0]
            assert item.asker.priority == min(other.asker.priority for other in inside)
            same = [other for other in inside if (other.asker.key, other.asker.priority) == (item.asker.key, item.asker.priority)]
            assert item is same[0]
            line.begin(item)
            line.charge(item.asker, random_.randrange(50))
            inside.remove(item)
            begun.append(item)
        elif begun:
            line.end(begun.pop().asker)
        assert list(line) == inside
    for item in begun:
        line.end(item.asker)
    for item in inside:
        line.leave(item)
    assert not line._served
    assert not line._busy


def test_what_is_put_back_has_its_turn_again_before_others_of_its_key() -> None:
    line: Line[Item] = Line(2)
    first, second = Item(Asker("a"), 1), Item(Asker("a"), 2)
    for item in (first, second):
        line.join(item, 0, 1)
    line.begin(first)
    line.charge(first.asker, 5)
    line.charge(first.asker, -5)
    line.put_back(first)
    assert [item.name for item in line] == [1, 2]
    assert line.next() is first
    line.leave(first)
    line.leave(second)
    line.join(Item(Asker("b")), 0, 1)
    assert line.next() is not None
    assert not line._busy
