"""The ledger keeps what it is told, on SQLite and on a real PostgreSQL alike, with many who write at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from treadle.core.errors import UserError, WorkError
from treadle.store.ledger import Ledger
from treadle.store.tables import random_id

Open = Callable[[], Ledger]


def answer(id: str, **changes: Any) -> dict[str, Any]:
    row = {
        "id": id, "version": 1, "package": "package-a", "stored": True, "prompt": "def f", "text": "(x):", "settings": {"t": 0.5},
        "prompt_tokens": 2, "answer_tokens": 3, "seconds": 0.25, "finish_reason": "stop",
    }
    return row | changes


def together(count: int, work: Callable[[int], None]) -> None:
    """``work(0) ... work(count - 1)`` in threads that start at once; the first error is raised."""
    barrier, errors = threading.Barrier(count), []

    def one(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_lineage_keeps_its_order_and_filing_twice_is_no_change(open_ledger: Open) -> None:
    ledger = open_ledger()
    parents = ["model-0", "dataset-z", "dataset-a"]
    manifest = {"id": "model-1", "kind": "model", "parents": parents, "counts": {"loss": float("nan")}}
    ledger.record_artifact(manifest)
    ledger.record_artifact(manifest)
    assert open_ledger().parents("model-1") == parents
    assert ledger.parents("model-unknown") == []


def test_many_file_the_same_artifact(open_ledger: Open) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    manifest = {"id": "model-1", "kind": "model", "parents": ["dataset-1"], "counts": {}}
    together(16, lambda n: ledgers[n % 4].record_artifact(manifest))
    assert ledgers[0].parents("model-1") == ["dataset-1"]


def test_runs_begin_and_end(ledger: Ledger) -> None:
    first, second = ledger.start_run("run"), ledger.start_run("improve")
    ledger.end_run(first, "done", {"figures": [1, 2], "worst": float("inf")})
    rows = ledger.all_runs()
    assert [(row["id"], row["word"], row["outcome"]) for row in rows] == [(first, "run", "done"), (second, "improve", None)]
    assert rows[0]["detail"] == {"figures": [1, 2], "worst": None}
    assert timedelta(0) <= datetime.now(UTC) - rows[0]["started"] < timedelta(minutes=5)


def live(ledger: Ledger) -> tuple[int, str, str]:
    row = ledger.live()
    assert row is not None
    return row["version"], row["package"], row["action"]


def test_rollback_goes_back_to_what_was_live_before(ledger: Ledger) -> None:
    assert ledger.live() is None
    with pytest.raises(UserError, match="no earlier version"):
        ledger.rollback("nothing yet")
    assert [ledger.promote(f"package-{n}", "better") for n in (1, 2, 3)] == [1, 2, 3]
    assert live(ledger) == (3, "package-3", "promote")

    assert ledger.rollback("worse")["version"] == 2
    assert live(ledger) == (2, "package-2", "rollback")
    assert ledger.rollback("worse still")["version"] == 1
    with pytest.raises(UserError, match="no earlier version"):
        ledger.rollback("nothing left")
    assert live(ledger) == (1, "package-1", "rollback")

    assert ledger.promote("package-4", "better") == 4
    assert ledger.rollback("no")["version"] == 1, "version 1 was live when 4 was promoted, not 3"
    assert ledger.promote("package-5", "better") == 5
    assert ledger.promote("package-6", "better") == 6
    assert [ledger.rollback("")["version"] for _ in range(2)] == [5, 1]
    actions = [(row["version"], row["action"]) for row in ledger.deployments()]
    assert actions == [
        (1, "promote"), (2, "promote"), (3, "promote"), (2, "rollback"), (1, "rollback"), (4, "promote"), (1, "rollback"),
        (5, "promote"), (6, "promote"), (5, "rollback"), (1, "rollback"),
    ]
    assert [row["action"] for row in ledger.audit()] == [action for _, action in actions]


def test_rollback_to_a_version_goes_either_way(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="never a version 1"):
        ledger.rollback("nothing yet", to=1)
    for number in (1, 2, 3):
        ledger.promote(f"package-{number}", "better")
    for number in (1, 3, 2):
        assert ledger.rollback("", to=number)["package"] == f"package-{number}"
        assert live(ledger) == (number, f"package-{number}", "rollback")
    with pytest.raises(UserError, match="live already") as caught:
        ledger.rollback("", to=2)
    assert caught.value.cure == "versions to choose from: 1, 3"
    with pytest.raises(UserError, match="never a version 9"):
        ledger.rollback("", to=9)
    assert live(ledger)[0] == 2
    assert ledger.rollback("")["version"] == 1, "version 1 was live when 2 was promoted"


def test_versions_stay_unique_when_many_promote_at_once(open_ledger: Open) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    versions: list[int] = []
    together(24, lambda n: versions.append(ledgers[n % 4].promote(f"package-{n}", "")))
    assert sorted(versions) == list(range(1, 25))
    assert [row["version"] for row in ledgers[0].deployments()] == list(range(1, 25))


def test_answers_and_feedback(ledger: Ledger) -> None:
    ledger.record_answer(**answer("answer-1"))
    ledger.record_answer(**answer("answer-2", stored=False, prompt=None, text=None))
    first = ledger.record_feedback("answer-1", "up", None)
    second = ledger.record_feedback("answer-1", None, "(y):")
    assert second > first
    stored = ledger.answer("answer-1")
    assert stored is not None
    assert {key: stored[key] for key in answer("answer-1")} == answer("answer-1")
    assert stored["at"].tzinfo is not None
    assert ledger.answer("answer-3") is None
    columns = ("answer", "rating", "edited", "prompt", "text", "version")
    said = [tuple(row[name] for name in columns) for row in ledger.all_feedback()]
    assert said == [("answer-1", "up", None, "def f", "(x):", 1), ("answer-1", None, "(y):", "def f", "(x):", 1)]
    assert ledger.totals() == {"answers": 2, "feedback": 2}


def test_feedback_of_an_earlier_ledger_is_by_no_key(open_ledger: Open) -> None:
    earlier = open_ledger()
    earlier.record_answer(**answer("answer-1"))
    earlier.record_feedback("answer-1", "up", None, "app")
    with earlier._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feedback DROP COLUMN key")
    earlier.close()
    ledger = open_ledger()
    ledger.record_feedback("answer-1", "down", None, "app")
    assert [(row["rating"], row["key"]) for row in ledger.all_feedback()] == [("up", None), ("down", "app")]


def test_feedback_to_an_unknown_answer_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="there is no answer 'answer-9'"):
        ledger.record_feedback("answer-9", "up", None)
    assert ledger.totals()["feedback"] == 0


@pytest.mark.parametrize("text", ["caf\u00e9 \U0001f600", "a'b\"c; DROP TABLE answers; --", "", "x" * 100_000, "tab\tline\r\n"])
def test_text_is_kept_as_it_was_given(ledger: Ledger, text: str) -> None:
    ledger.record_answer(**answer("answer-1", prompt=text, text=text))
    row = ledger.answer("answer-1")
    assert row is not None
    assert (row["prompt"], row["text"]) == (text, text)


def test_what_no_database_can_hold_is_marked(ledger: Ledger) -> None:
    ledger.record_answer(**answer("answer-1", prompt="a\x00b", text="\ud800c"))
    row = ledger.answer("answer-1")
    assert row is not None
    assert (row["prompt"], row["text"]) == ("a\ufffdb", "\ufffdc")


def test_nothing_is_lost_when_many_write_at_once(open_ledger: Open) -> None:
    ledgers = [open_ledger() for _ in range(3)]

    def work(number: int) -> None:
        ledger = ledgers[number % 3]
        for turn in range(10):
            id = f"answer-{number}-{turn}"
            ledger.record_answer(**answer(id))
            ledger.record_feedback(id, "down", None)
            assert ledger.answer(id) is not None

    together(9, work)
    assert ledgers[0].totals() == {"answers": 90, "feedback": 90}


def test_many_processes_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    script = "import sys, pathlib, treadle.store.ledger as l; l.Ledger(pathlib.Path(sys.argv[1])).promote('package', '')"
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [child.wait(timeout=120) for child in children] == [0] * 4
    ledger = Ledger(tmp_path)
    assert [row["version"] for row in ledger.deployments()] == [1, 2, 3, 4]
    ledger.close()


def test_what_was_written_is_there_after_closing(open_ledger: Open) -> None:
    first = open_ledger()
    first.promote("package-1", "reason")
    first.close()
    assert live(open_ledger()) == (1, "package-1", "promote")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "refused"),
        ("mysql+nothing://x", "NoSuchModule|Can't load plugin"),
        ("not a url", "Could not parse"),
        ("postgresql+psycopg://me:secret@h:port/x", "invalid literal|Could not parse"),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_said_without_its_password(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(UserError, match="cannot open the ledger") as caught:
        Ledger(tmp_path, url)
    assert "secret" not in str(caught.value)
    assert "check 'ledger:'" in caught.value.cure


def test_a_damaged_ledger_is_said(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match="file is not a database"):
        Ledger(tmp_path)


def test_a_ledger_damaged_while_open_is_said(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.close()
    for file in tmp_path.iterdir():
        file.write_bytes(b"not a database" * 1000)
    with pytest.raises(WorkError, match="the ledger cannot be read: file is not a database"):
        ledger.live()
    with pytest.raises(WorkError, match="the ledger cannot be written: file is not a database"):
        ledger.promote("package-1", "")


def test_a_full_disk_is_said_and_nothing_is_half_written(small_disk: Path) -> None:
    ledger = Ledger(small_disk)
    ledger.promote("package-1", "")

    def fill() -> None:
        for number in range(100):
            ledger.record_answer(**answer(f"answer-{number}", text="x" * 20_000))

    with pytest.raises(WorkError, match="the ledger cannot be written"):
        fill()
    assert live(ledger)[0] == 1
    ledger.close()


def test_no_error_shows_what_was_to_be_written(ledger: Ledger) -> None:
    ledger.record_answer(**answer("answer-1"))
    with pytest.raises(IntegrityError) as caught:
        ledger.record_answer(**answer("answer-1", prompt="private words"))
    assert "private words" not in str(caught.value)


def test_a_store_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(WorkError, match="cannot write to"):
        Ledger(tmp_path / "store")


def test_ids_sort_by_their_time_and_cannot_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [1, 10**6, 10**18, 10**18 + 10**6, 2 * 10**18]  # ns
    monkeypatch.setattr("treadle.store.tables.time.time_ns", lambda: next(clock))
    clock = iter(moments)
    ids = [random_id("pred") for _ in moments]
    assert ids == sorted(ids)
    assert {(id[:5], len(id)) for id in ids} == {("pred-", 41)}
    clock = iter([10**18] * 1000)
    assert len({random_id("pred")[-24:] for _ in range(1000)}) == 1000
