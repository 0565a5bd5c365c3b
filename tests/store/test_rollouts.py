"""A candidate beside the live version: how it comes, changes and goes, what stands in the audit trail, and how it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from treadle.core.errors import UserError
from treadle.store.ledger import Ledger
from treadle.store.standing import is_good, standing


def answer(id: str, **changes: Any) -> dict[str, Any]:
    row = {
        "id": id, "version": 1, "package": "package-a", "stored": True, "prompt": "def f", "text": "(x):", "settings": {},
        "prompt_tokens": 2, "answer_tokens": 3, "seconds": 0.25, "finish_reason": "stop",
    }
    return row | changes


def made(ledger: Ledger, *packages: str) -> None:
    for id in packages:
        ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})


@pytest.fixture
def known(ledger: Ledger) -> Ledger:
    """Version 1 is live; two more packages are known."""
    ledger.promote("package-a", "first")
    made(ledger, "package-a", "package-bb", "package-bc")
    return ledger


def trail(ledger: Ledger) -> list[tuple[str, Any]]:
    ledger.check_audit()
    return [(row["action"], row["detail"].get("outcome") or row["detail"].get("kind")) for row in ledger.audit()]


def test_a_candidate_stands_beside_the_live_version_and_goes_live_under_its_number(known: Ledger) -> None:
    assert known.rollout() is None
    begun = known.start_rollout("shadow", "package-bb", "to see")
    assert (begun.version, begun.package, begun.share, begun.answers) == (2, "package-bb", 1.0, False)
    assert known.live()["version"] == 1
    assert known.rollout() == begun
    changed = known.start_rollout("canary", None, "it does no harm", share=0.2)
    assert (changed.version, changed.kind, changed.share, changed.answers) == (2, "canary", 0.2, True)
    assert changed.id != begun.id, "what was counted under other shares is not mixed in"
    assert known.promote_candidate("better") == 2
    assert (known.live()["version"], known.live()["package"], known.live()["action"]) == (2, "package-bb", "promote")
    assert known.rollout() is None
    assert [row["kind"] for row in known.all_rollouts()] == ["shadow", "canary", "promoted"]
    assert trail(known) == [
        ("promote", None), ("start rollout", "shadow"), ("change rollout", "canary"), ("promote", None),
        ("end rollout", "promoted"),
    ]
    assert known.rollback("worse")["version"] == 1
    with pytest.raises(UserError, match="no candidate"):
        known.promote_candidate("again")


def test_stopping_leaves_the_live_version_and_keeps_the_number(known: Ledger) -> None:
    known.start_rollout("canary", "package-bb", "")
    assert known.stop_rollout("worse").version == 2
    assert known.rollout() is None
    assert known.live()["version"] == 1
    assert trail(known)[-1] == ("end rollout", "stopped")
    assert known.promote("package-bc", "better") == 3, "the number of a candidate is not given twice"
    assert known.start_rollout("ab", 2, "").package == "package-bb"
    assert known.start_rollout("ab", "package-bb", "").version == 2
    with pytest.raises(UserError, match="no candidate"):
        known.stop_rollout("", only=1)
    assert known.rollout() is not None
    known.stop_rollout("")
    with pytest.raises(UserError, match="no candidate"):
        known.stop_rollout("")


def test_another_candidate_takes_the_place_of_the_first(known: Ledger) -> None:
    known.start_rollout("canary", "package-bb", "")
    assert known.start_rollout("ab", "package-bc", "").version == 3
    assert [row["kind"] for row in known.all_rollouts()] == ["canary", "replaced", "ab"]


def test_whatever_goes_live_ends_the_rollout(known: Ledger) -> None:
    known.promote("package-bc", "better")
    for go, outcome in ((lambda: known.rollback("worse"), "stopped"), (lambda: known.promote("package-bc", "better"), "stopped"),
                        (lambda: known.promote("package-bb", "better"), "promoted")):
        known.start_rollout("canary", "package-bb", "")
        go()
        assert known.rollout() is None
        assert known.all_rollouts()[-1]["kind"] == outcome
        assert trail(known)[-1] == ("end rollout", outcome)


def test_what_cannot_be_a_candidate_is_said(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="no version is live"):
        ledger.start_rollout("canary", "package-a", "")
    ledger.promote("package-a", "first")
    made(ledger, "package-a", "package-bb", "package-bc")
    for candidate, message in (
        ("package-a", "live already, as version 1"), (1, "live already"), (7, "never a version 7"), ("package-x", "no package"),
        ("package-b", "could be package-bb or package-bc"), (None, "no candidate"),
    ):
        with pytest.raises(UserError, match=message):
            ledger.start_rollout("canary", candidate, "")
    for share in (0.0, -0.1, 1.1):
        with pytest.raises(UserError, match="share"):
            ledger.start_rollout("canary", "package-bb", "", share=share)
    with pytest.raises(UserError, match="both sides need answers"):
        ledger.start_rollout("ab", "package-bb", "", share=1.0)
    with pytest.raises(UserError, match="alpha"):
        ledger.start_rollout("ab", "package-bb", "", alpha=0.0)
    assert ledger.all_rollouts() == []
    assert ledger.start_rollout("canary", "package-bb", "", share=1.0).share == 1.0


def rated(ledger: Ledger, rollout: int | None, version: int, ratings: str, start: int) -> None:
    """Answers of ``version``, each with its rating: + up, - down, e edited, = edited to the same, 0 up and taken back, . none."""
    for place, mark in enumerate(ratings, start):
        id = f"answer-{place}"
        ledger.record_answer(**answer(id, version=version, package=f"package-{version}", rollout=rollout))
        for rating, edited in {
            "+": [("up", None)], "-": [("up", None), ("down", None)], "e": [("up", "(y):")], "=": [(None, "(x):")],
            "0": [("up", None), (None, None)], ".": [],
        }[mark]:
            ledger.record_feedback(id, rating, edited)


def test_the_standing_counts_what_was_drawn_under_this_rollout_alone(known: Ledger) -> None:
    old = known.start_rollout("canary", "package-bb", "")
    rated(known, old.id, 2, "------", 0)
    now = known.start_rollout("ab", None, "")
    rated(known, None, 2, "---", 100)  # asked for by number
    rated(known, now.id, 1, "+-e=0.", 200)
    rated(known, now.id, 2, "++=-.", 300)
    found = standing(known)
    live, candidate = found.sides
    assert (live.role, live.version, live.answers, live.good, live.bad, live.errors) == ("live", 1, 6, 2, 2, 0)
    assert (candidate.role, candidate.version, candidate.answers, candidate.good, candidate.bad) == ("candidate", 2, 5, 3, 1)
    assert live.share == 0.5
    assert 0 < live.low < 0.5 < live.high < 1
    # In order: live + - - +, candidate + + + -; each of the candidate's is paired with the newest live one: + with +, - and - lost
    # to + and +, then - against the first +.
    assert (found.pairs.wins, found.pairs.losses, found.pairs.even) == (2, 1, 1)
    assert found.winner is None
    assert found.as_dict()["rollout"]["kind"] == "ab"
    json.dumps(found.as_dict())
    assert any("not yet" in line for line in found.lines())


@pytest.mark.parametrize(("live", "candidate", "winner", "word"), [
    ("-", "+", "candidate", "treadle rollout promote"), ("+", "-", "live", "treadle rollout stop"),
])
def test_the_winner_is_named_from_the_eighth_pair_on(known: Ledger, live: str, candidate: str, winner: str, word: str) -> None:
    rollout = known.start_rollout("ab", "package-bb", "").id
    for count in range(8):
        found = standing(known)
        assert found.winner is None
        # After n pairs, all won by one side, the evidence is (2^(n+1) - 1) / (n+1); 40 is reached with the eighth.
        if count:
            assert found.as_dict()["evidence"][winner] == pytest.approx((2 ** (count + 1) - 1) / (count + 1), rel=1e-3)
            assert found.more_ratings == 2 * (8 - count)
        rated(known, rollout, 1, live, 2 * count)
        rated(known, rollout, 2, candidate, 2 * count + 1)
    found = standing(known)
    assert (found.winner, found.more_ratings) == (winner, 0)
    assert any(f"winner known: {winner}" in line for line in found.lines())
    assert any(word in line for line in found.lines())
    known.start_rollout("ab", None, "", alpha=0.5)
    assert standing(known).winner is None, "changed, it counts anew"


def test_shadow_answers_are_summed_and_are_no_answers(known: Ledger) -> None:
    rollout = known.start_rollout("shadow", "package-bb", "").id
    known.record_answer(**answer("answer-1", rollout=rollout))
    same = {"rollout": rollout, "version": 2, "package": "package-bb", "text": None, "finish_reason": "stop", "answer": "answer-1"}
    known.record_shadows([
        same | {"id": "s1", "agreement": 1.0, "seconds": 3.0, "live_seconds": 1.0},
        same | {"id": "s2", "agreement": 0.25, "seconds": 5.0, "live_seconds": 2.0},
        same | {"id": "s3", "agreement": 0.0, "seconds": 4.0, "live_seconds": 6.0, "finish_reason": "error"},
    ])
    known.record_shadows([same | {"id": "s4", "rollout": 99, "agreement": 0.0, "seconds": 9.0, "live_seconds": 9.0}])
    found = standing(known).shadowed
    assert found is not None
    assert (found.answers, found.same, found.errors, found.seconds, found.live_seconds) == (3, 1, 1, 4.0, 2.0)
    assert found.agreement == pytest.approx(1.25 / 3)
    assert known.totals()["answers"] == 1
    assert known.answer("s1") is None
    assert [side.answers for side in standing(known).sides] == [1, 0]


@pytest.mark.parametrize(("rating", "edited", "good"), [
    ("up", None, True), ("down", None, False), (None, None, None), (None, '{"a": "1"}', True), ("up", '{"a": 2}', False),
    ("down", '{"a": 1}', False), (None, '{"b": "x"}', True), ("up", '{"a": 1, "b": "y"}', False),
])
def test_a_right_answer_that_says_the_same_is_no_error(rating: str | None, edited: str | None, good: bool | None) -> None:
    row = {"rating": rating, "edited": edited, "text": '{"a": 1, "b": "x"}', "settings": {"kind": "prediction"}}
    assert is_good(row) is good


def test_without_a_rollout_that_is_said(known: Ledger) -> None:
    assert standing(known).as_dict() == {"live": 1, "rollout": None}
    assert "no candidate" in standing(known).lines()[0]
