"""Keys are asked of the ledger once in a while, and one that was revoked opens nothing once that while is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import Clock

from treadle.core.errors import WorkError
from treadle.serve.known import FRESH, Known
from treadle.store.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@pytest.fixture
def asked(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the ledger was asked."""
    found: list[str] = []

    def noted(name: str, real: Any) -> Any:
        return lambda *given: found.append(name) or real(*given)

    for name in ("find_key", "live_keys"):
        monkeypatch.setattr(ledger, name, noted(name, getattr(ledger, name)))
    return found


def name_of(known: Known, secret: str) -> str | None:
    key = asyncio.run(known.find(secret))
    return key.name if key else None


def test_the_ledger_is_asked_once_in_a_while(ledger: Ledger, asked: list[str], clock: Clock) -> None:
    known, secret = Known(ledger, clock), ledger.add_key("alice")
    assert [name_of(known, secret) for _ in range(3)] == ["alice"] * 3
    assert asked == ["find_key"]
    clock.now += FRESH - 0.01
    assert name_of(known, secret) == "alice"
    assert asked == ["find_key"]
    clock.now += 0.02
    assert name_of(known, secret) == "alice"
    assert asked == ["find_key"] * 2


def test_many_at_once_ask_the_ledger_once(ledger: Ledger, asked: list[str], clock: Clock) -> None:
    known, secret = Known(ledger, clock), ledger.add_key("alice")

    async def ask() -> list[Any]:
        return await asyncio.gather(*(known.find(given) for given in [secret, "tk-other"] * 20))

    assert [key.name if key else None for key in asyncio.run(ask())] == ["alice", None] * 20
    assert asked == ["find_key"] * 2
    assert known._asking == {}


def test_a_revoked_key_opens_nothing_when_that_is_over_and_a_new_one_opens_at_once(ledger: Ledger, clock: Clock) -> None:
    known, secret = Known(ledger, clock), ledger.add_key("alice")
    assert name_of(known, secret) == "alice"
    ledger.revoke_key("alice")
    clock.now += FRESH
    assert name_of(known, secret) is None
    other = ledger.add_key("bob")
    assert name_of(known, other) == "bob"
    assert name_of(known, secret) is None
    assert secret not in repr(vars(known))
    assert other not in repr(vars(known))


def test_what_the_ledger_does_not_know_is_asked_each_time_and_takes_no_room(ledger: Ledger, asked: list[str], clock: Clock) -> None:
    known = Known(ledger, clock)
    assert [name_of(known, f"tk-{number}") for number in range(5)] == [None] * 5
    assert asked == ["find_key"] * 5
    assert known._found == {}


def test_where_the_ledger_cannot_be_read_nothing_is_known(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    known, secret = Known(ledger, clock), ledger.add_key("alice")
    assert name_of(known, secret) == "alice"

    def broken(_: str) -> None:
        raise WorkError("the ledger cannot be read")

    monkeypatch.setattr(ledger, "find_key", broken)
    clock.now += FRESH
    with pytest.raises(WorkError):
        name_of(known, secret)


def test_whether_there_is_a_key_at_all_is_asked_once_in_a_while(ledger: Ledger, asked: list[str], clock: Clock) -> None:
    known = Known(ledger, clock)
    assert [asyncio.run(known.any_live()) for _ in range(2)] == [False, False]
    ledger.add_key("alice")
    assert asked == ["live_keys"]
    clock.now += FRESH
    assert asyncio.run(known.any_live())
