"""What a console asks the ledger: answers that wait for a judgement, and what keys used day by day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from treadle.store.keys import Use


def record(ledger: Any, id: str, stored: bool = True) -> None:
    text = "text" if stored else None
    ledger.record_answer(
        id=id, version=1, package="package-a", stored=stored, prompt=text, text=text, settings={}, prompt_tokens=1, answer_tokens=1,
        seconds=0.1, finish_reason="stop",
    )


def test_answers_wait_whose_text_is_kept_and_of_which_nothing_was_said(ledger: Any) -> None:
    for number in range(6):
        record(ledger, f"answer-{number}", stored=number != 3)
    ledger.record_feedback("answer-1", "up", None)
    ledger.record_feedback("answer-4", None, None)  # taken back: it was judged all the same
    waiting = [row["id"] for row in ledger.unjudged(10)]
    assert waiting == ["answer-5", "answer-2", "answer-0"]
    assert [row["id"] for row in ledger.unjudged(2)] == waiting[:2]
    assert [row["id"] for row in ledger.unjudged(1, skip=1)] == waiting[1:2]


def test_use_is_told_by_key_and_day_the_newest_first(ledger: Any) -> None:
    today = date(2026, 11, 29)
    for name in ("b", "a"):
        ledger.add_key(name)
    for name, back, tokens in (("b", 0, 5), ("a", 0, 7), ("a", 1, 11), ("a", 40, 13), ("a", 1, 2)):
        ledger.record_uses({(name, today - timedelta(days=back)): Use(1, tokens, 0)})
    rows = ledger.use_since(today - timedelta(days=29))
    found = [(row["key"], (today - row["day"]).days, row["requests"], row["tokens"]) for row in rows]
    assert found == [("a", 0, 1, 7), ("b", 0, 1, 5), ("a", 1, 2, 13)]
