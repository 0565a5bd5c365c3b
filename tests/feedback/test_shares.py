"""A flood of feedback by one key: bounded where others spoke too, and told; one key alone is heard whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import write_project
from treadle.data.record import read_records
from treadle.feedback.curate import curate, feedback_corpus
from treadle.feedback.shares import most_of_each
from treadle.report.trace import trace
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger
from treadle.store.tables import as_json

NOW = datetime.now(UTC)


def said(id: int, key: str | None, prompt: str, edited: str | None, text: str = "t") -> dict[str, Any]:
    rating = "up" if edited is None else "down"
    word = {"rating": rating, "edited": edited, "key": key}
    return {"id": id, "answer": f"a{id}", "prompt": prompt, "text": text, "version": 1, "at": NOW, **word}


def flood(*counts: tuple[str | None, int]) -> list[dict[str, Any]]:
    """So many edits of each key, all of different prompts."""
    keys = [key for key, count in counts for _ in range(count)]
    return [said(number, key, f"prompt {number}", f"edit {number}") for number, key in enumerate(keys)]


def kept_by(rows: Sequence[dict[str, Any]], **how: Any) -> Counter[str | None]:
    records, aside, account = curate(rows, **how)
    assert account.as_dict()["in"] == len(rows) == len(records) + len(aside)
    return Counter(record.meta["key"] for record in records)


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ([("mallory", 900), ("app", 30)], {"mallory": 30, "app": 30}),  # half of what is left
        ([("mallory", 900), ("app", 30), ("test", 10)], {"mallory": 40, "app": 30, "test": 10}),
        ([("mallory", 900), (None, 25)], {"mallory": 25, None: 25}),  # those without a key are others too
        ([("app", 30), (None, 900)], {"app": 30, None: 900}),  # and have no bound themselves
        ([("app", 900)], {"app": 900}),  # one app is all that many teams have
        ([("app", 900), ("test", 19)], {"app": 900, "test": 19}),  # too few for a round: no one whom it could outweigh
        ([("a", 40), ("b", 40)], {"a": 40, "b": 40}),
    ],
)
def test_a_key_is_bounded_where_others_gave_enough(counts: list[tuple[str | None, int]], kept: dict[str | None, int]) -> None:
    rows = flood(*counts)
    assert kept_by(rows, share=0.5, least=20) == kept
    assert kept_by(rows, share=1.0, least=20) == dict(counts)
    _, aside, account = curate(rows, share=0.5, least=20)
    over = len(rows) - sum(kept.values())
    assert account.as_dict()["set_aside"] == ({"over its key's share": over} if over else {})
    assert all("by the key 'mallory'" in one.detail for one in aside)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 60), min_size=1), st.integers(0, 40), st.floats(0.01, 1),
    st.integers(1, 30),
)
def test_no_key_is_over_its_share_and_the_bound_is_the_largest(counts: dict[str, int], free: int, share: float, least: int) -> None:
    most = most_of_each(counts, free, share, least)
    largest = max(counts.values())
    others = free + sum(counts.values()) - largest
    allowed = max(share, 1 / (len(counts) + bool(free)))

    def holds(bound: int) -> bool:
        left = {key: min(count, bound) for key, count in counts.items()}
        return max(left.values()) <= allowed * (free + sum(left.values())) + 1e-6

    if others < least or len(counts) + bool(free) < 2:
        assert most is None
    elif most is None:
        assert holds(largest)
    else:
        assert holds(most)
        assert not any(holds(bound) for bound in range(most + 1, largest + 1))


def test_what_stays_is_drawn_by_the_servers_ids_and_stays_as_feedback_grows() -> None:
    rows = flood(("app", 20), ("mallory", 300))
    records, _, _ = curate(rows, share=0.5, least=20)
    first = {record.source for record in records if record.meta["key"] == "mallory"}
    more = [*rows, *(said(number, "app", f"prompt {number}", f"edit {number}") for number in range(1000, 1020))]
    later = {record.source for record in curate(more, share=0.5, least=20)[0] if record.meta["key"] == "mallory"}
    assert (len(first), len(later)) == (20, 40)
    assert first < later
    places = sorted(int(source.removeprefix("answer a")) for source in first)
    assert places[0] < 100  # neither the oldest nor the newest alone
    assert places[-1] > 220
    reworded = [row | {"edited": row["edited"] + "!"} if row["key"] == "mallory" else row for row in rows]
    assert {record.source for record in curate(reworded, share=0.5, least=20)[0] if record.meta["key"] == "mallory"} == first


def test_repeated_edits_count_once_and_of_contradictory_ones_the_last() -> None:
    rows = [
        said(1, "app", "p", "one"), said(2, "app", "p", "two"), said(3, "app", "p", "two"), said(4, "other", "p", "three"),
        said(5, None, "p", "four"), said(6, None, "p", "five"), said(7, "app", "p", None, "six"), said(8, "app", "q", "two"),
    ]
    records, _, account = curate(rows)
    found = [(record.meta["key"], record.fields["prompt"], record.fields["answer"]) for record in records]
    assert found == [
        ("app", "p", "two"), ("other", "p", "three"), (None, "p", "four"), (None, "p", "five"), ("app", "p", "six"),
        ("app", "q", "two"),
    ]
    assert account.as_dict()["set_aside"] == {"edited again by its key": 2}


def test_what_two_keys_say_alike_is_no_ones_flood() -> None:
    rows = flood(("mallory", 500), ("app", 40))
    copied = [row | {"id": 1000 + row["id"], "answer": f"b{row['id']}", "key": "app"} for row in rows[:100]]
    records, _, _ = curate([*rows, *copied], share=0.5, least=20)
    assert {record.fields["prompt"] for record in records} >= {f"prompt {number}" for number in range(100)}


def test_a_flood_is_told_of_in_the_corpus_the_ledger_the_report_and_the_trace(tmp_path: Path) -> None:
    from treadle.report.origins import _taught

    project = write_project(tmp_path)
    store, ledger = Store(project.store), Ledger(project.store)
    with store.create("model-0", parents=(), config={}, version=1, seed=0) as draft:
        (draft.path / "x").write_text("x")
    for row in flood(("mallory", 60), ("app", 10)):
        ledger.record_answer(
            id=row["answer"], version=1, package="model-0", stored=True, prompt=row["prompt"], text="t", settings={},
            prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        ledger.record_feedback(row["answer"], "down", row["edited"], row["key"])
    assert ledger.feedback_set_aside() == {}
    corpus = feedback_corpus(project, store, ledger, store.open("model-0"))
    assert len(list(read_records(corpus.path / "records.parquet"))) == 20
    assert corpus.counts["account"] == {"in": 70, "kept": 20, "set_aside": {"over its key's share": 50}}
    assert corpus.counts["keys"] == [{"key": "mallory", "given": 60, "kept": 10}, {"key": "app", "given": 10, "kept": 10}]
    ledger.record_artifact(corpus.manifest)
    ledger.record_artifact(store.open("model-0").manifest)
    assert ledger.feedback_set_aside() == {"over its key's share": 50}
    shown = str(_taught(corpus.counts))
    assert "50 over its key&#x27;s share" in shown or "50 over its key's share" in shown
    assert "mallory" in shown
    assert "<img" not in str(_taught(corpus.counts | {"keys": [{"key": "<img src=x>", "given": 1, "kept": 1}]}))
    assert "by the key 'mallory'" in as_json(trace(store, ledger, "a0").as_dict())
    whole = feedback_corpus(write_project(tmp_path, "improve.max_share=100%"), store, ledger, store.open("model-0"))
    assert whole.counts["account"]["kept"] == 70
    ledger.close()
