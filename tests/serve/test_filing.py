"""Answers that wait together go into the ledger together, and one at fault takes no other with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from treadle.core.errors import WorkError
from treadle.serve.filing import MOST, Filer
from treadle.store.ledger import Ledger


def row(id: str) -> dict[str, Any]:
    return {
        "id": id, "version": 1, "package": "package-a", "stored": False, "prompt": None, "text": None, "settings": {},
        "prompt_tokens": 1, "answer_tokens": 2, "seconds": 0.1, "finish_reason": "stop",
    }


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Ledger, list[int]]:
    """A ledger, and how many rows each of its transactions was asked to hold."""
    ledger, sizes = Ledger(tmp_path), list[int]()
    real = ledger.record_answers
    monkeypatch.setattr(ledger, "record_answers", lambda rows: sizes.append(len(rows)) or real(rows))
    return ledger, sizes


def file(ledger: Ledger, *parts: list[dict[str, Any]]) -> list[Any]:
    async def work() -> list[Any]:
        filer = Filer(ledger)
        return await asyncio.gather(*(filer.file(part) for part in parts), return_exceptions=True)

    return asyncio.run(work())


def test_what_waits_goes_in_at_once(counted: tuple[Ledger, list[int]]) -> None:
    ledger, sizes = counted
    assert file(ledger, *([row(f"a{number}")] for number in range(40))) == [None] * 40
    assert ledger.totals()["answers"] == 40
    assert sizes == [40]


def test_a_transaction_holds_so_many_and_one_part_whole(counted: tuple[Ledger, list[int]]) -> None:
    ledger, sizes = counted
    parts = [[row(f"{part}-{number}") for number in range(count)] for part, count in enumerate((MOST - 1, 2, MOST + 5))]
    assert file(ledger, *parts) == [None] * 3
    assert sizes == [MOST - 1, 2, MOST + 5]


def test_one_at_fault_takes_no_other_with_it(counted: tuple[Ledger, list[int]]) -> None:
    ledger, _ = counted
    ledger.record_answer(**row("known"))
    found = file(ledger, [row("a")], [row("known")], [row("b")])
    assert [error is None for error in found] == [True, False, True]
    assert [ledger.answer(id) is not None for id in ("a", "b")] == [True, True]
    assert ledger.totals()["answers"] == 3


def test_a_ledger_that_fails_is_told_to_each(counted: tuple[Ledger, list[int]]) -> None:
    ledger, _ = counted
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE answers RENAME TO gone")
    assert all(isinstance(error, WorkError) for error in file(ledger, [row("a")], [row("b")]))
