"""The audit trail: entries follow on each other, whoever writes; what was tampered with is found; earlier ledgers are sealed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from earlier import AT, make_earlier

from treadle.core.errors import WorkError
from treadle.store.ledger import Ledger

Open = Callable[[], Ledger]


def tamper(ledger: Ledger, *statements: str) -> None:
    """As one who holds the database's file or its owner's rights."""
    with ledger._engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE audit DISABLE TRIGGER ALL")
        else:
            for name in ("audit_is_not_changed", "audit_is_not_deleted"):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.promote("package-1", "better")
    ledger.add_key("naïve")
    ledger.revoke_key("naïve")
    ledger.note("start server", {"url": "http://127.0.0.1:8000", "share": 0.1, "none": None, "infinite": float("inf")})
    return ledger


def test_each_entry_holds_the_hash_of_the_one_before_and_of_itself(filled: Ledger) -> None:
    previous = "0" * 64
    for row in filled.audit():
        at = row["at"].strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
        entry = {"action": row["action"], "at": at, "detail": row["detail"], "previous": previous}
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert (row["previous"], row["hash"]) == (previous, hashlib.sha256(text.encode()).hexdigest())
        previous = row["hash"]
    assert filled.check_audit() == (4, previous)
    assert filled.check_audit(head=filled.audit()[1]["hash"]) == (4, previous)


def test_an_empty_trail_is_whole(ledger: Ledger) -> None:
    assert ledger.check_audit() == (0, "0" * 64)


@pytest.mark.parametrize("statement", ["UPDATE audit SET action = 'x'", "DELETE FROM audit WHERE id = 2", "TRUNCATE audit"])
def test_the_database_itself_refuses_to_change_an_entry(filled: Ledger, statement: str) -> None:
    if statement.startswith("TRUNCATE") and filled._engine.dialect.name == "sqlite":
        statement = "DELETE FROM audit"
    with pytest.raises(sa.exc.DatabaseError, match="only ever added"), filled._engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert filled.check_audit()[0] == 4


@pytest.mark.parametrize(
    ("statement", "entry", "said"),
    [
        ("UPDATE audit SET action = 'rollback' WHERE id = 1", 1, "was changed"),
        ("UPDATE audit SET detail = '{\"name\": \"bob\"}' WHERE id = 3", 3, "was changed"),
        ("UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE id = 2", 2, "was changed"),
        ("UPDATE audit SET previous = hash WHERE id = 4", 4, "was changed"),
        ("DELETE FROM audit WHERE id = 3", 4, "does not follow on entry 2"),
        ("DELETE FROM audit WHERE id = 1", 2, "is not the first"),
        ("INSERT INTO audit (id, at, action, detail) VALUES (9, '2026-01-01 00:00:00.000000', 'promote', '{}')", 9, "has no hash"),
        ("UPDATE audit SET id = 99 WHERE id = 2", 3, "does not follow on entry 1"),
    ],
)
def test_the_first_entry_that_is_wrong_is_named(filled: Ledger, statement: str, entry: int, said: str) -> None:
    tamper(filled, statement)
    with pytest.raises(WorkError, match=f"entry {entry} .*{said}") as caught:
        filled.check_audit()
    assert caught.value.exit_code == 1


def test_entries_taken_from_the_end_are_missed_where_the_head_was_noted(filled: Ledger) -> None:
    _, head = filled.check_audit()
    tamper(filled, "DELETE FROM audit WHERE id > 2")
    assert filled.check_audit()[0] == 2
    with pytest.raises(WorkError, match="lost its end"):
        filled.check_audit(head)


def test_processes_that_write_at_once_make_one_chain(ledger_url: str, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, treadle.store.ledger as l\n"
        "ledger = l.Ledger(pathlib.Path(sys.argv[1]), sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(15):\n"
        "    ledger.note('start server', {'n': n}); ledger.promote(f'package-{n}', ''); ledger.add_key(f'{sys.argv[3]} {n}')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), ledger_url]
    children = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for number in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.close()
    assert [child.wait(timeout=120) for child in children] == [0] * 3
    ledger = Ledger(tmp_path / "store", ledger_url)
    assert ledger.check_audit()[0] == 3 * 15 * 3
    assert len({row["previous"] for row in ledger.audit()}) == 3 * 15 * 3
    ledger.close()


def test_entries_of_an_earlier_ledger_are_sealed_once_with_a_note(ledger_url: str, tmp_path: Path) -> None:
    make_earlier(ledger_url)
    for _ in range(2):
        ledger = Ledger(tmp_path / "store", ledger_url)
        *rows, note = ledger.audit()
        assert [(row["at"], row["action"], row["detail"]) for row in rows] == [
            (AT, "add key", {"name": "alice"}), (AT, "add key", {"name": "bob"}), (AT, "revoke key", {"name": "bob"}),
        ]
        assert (note["action"], note["detail"]["entries"]) == ("seal", 3)
        assert "cannot be told" in note["detail"]["note"]
        assert ledger.check_audit()[0] == 4
        ledger.close()
    tampered = Ledger(tmp_path / "store", ledger_url)
    with pytest.raises(sa.exc.DatabaseError, match="only ever added"), tampered._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audit SET action = 'x' WHERE id = 2")
    tamper(tampered, "UPDATE audit SET action = 'x' WHERE id = 2")
    with pytest.raises(WorkError, match=r"entry 2 .*was changed"):
        tampered.check_audit()
    tampered.close()
