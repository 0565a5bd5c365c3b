"""Ledgers on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from treadle.store.ledger import Ledger

Open = Callable[[], Ledger]


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty ledger can be made."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    (tmp_path / "store").mkdir()
    return f"sqlite:///{tmp_path / 'store' / 'ledger.db'}"


@pytest.fixture
def open_ledger(ledger_url: str, tmp_path: Path) -> Iterator[Open]:
    """Opens the same ledger, as often as it is called."""
    opened: list[Ledger] = []

    def open_it() -> Ledger:
        opened.append(Ledger(tmp_path / "store", ledger_url))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Open) -> Ledger:
    return open_ledger()
