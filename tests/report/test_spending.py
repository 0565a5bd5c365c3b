"""Where a training's time went: the shares, and the advice that follows from them."""

from __future__ import annotations

from typing import Any

import pytest
from report_world import World, make, model_counts
from test_report_page import Page

from treadle.report.page import write_report
from treadle.report.spending import judge_spending
from treadle.show import outcome

SPENT = {"data": 2.0, "forward": 25.0, "backward": 50.0, "optimizer": 10.0, "validation": 8.0, "checkpoints": 1.0}
PROFILE = {
    "steps": 3, "seconds": 0.1, "in_operations": 0.09, "calls": 900,
    "operations": [
        {"name": "aten::addmm", "share": 0.4, "calls": 12.0, "seconds": 0.036},
        {"name": "aten::add_", "share": 0.1, "calls": 30.0, "seconds": 0.009},
    ],
}


def counts(profile: dict[str, Any] | None = None, **spent: float) -> dict[str, Any]:
    return {"seconds": 100.0, "spent": SPENT | spent, "profile": profile}


def test_shares_add_up_and_the_rest_is_other() -> None:
    found = judge_spending(counts())
    assert found["seconds"]["other"] == pytest.approx(4.0)
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert list(found["shares"])[:3] == ["backward", "forward", "optimizer"]
    assert found["advice"] == []
    assert judge_spending({"seconds": 100.0}) == {}  # trained before it was noted


@pytest.mark.parametrize(("part", "seconds", "said"), [
    ("data", 40.0, "augment"), ("optimizer", 60.0, "train.batch"), ("validation", 60.0, "train.validate_every"),
    ("checkpoints", 20.0, "train.checkpoint_every"), ("boards", 20.0, "train.log_to"),
])
def test_a_part_that_takes_much_has_its_cure(part: str, seconds: float, said: str) -> None:
    (words,) = judge_spending(counts(**{part: seconds}))["advice"]
    assert said in words
    short = {"seconds": 1.0, "spent": {name: value / 100 for name, value in (SPENT | {part: seconds}).items()}}
    assert judge_spending(short)["advice"] == []


@pytest.mark.parametrize(("change", "said"), [
    ({"calls": 9000}, "a step is 9000 operations of 10 microseconds"),
    ({"in_operations": 0.05}, "48% of a step lies between operations"),
    ({"operations": [{"name": "aten::mm", "share": 0.7, "calls": 3.0, "seconds": 0.06}]}, "70% of the time in operations is"),
], ids=["small", "between", "products"])
def test_a_profile_has_its_advice(change: dict[str, Any], said: str) -> None:
    assert judge_spending(counts(PROFILE))["advice"] == []
    (words,) = judge_spending(counts(PROFILE | change))["advice"]
    assert said in words


def test_the_terminal_says_it_after_a_run() -> None:
    lines = outcome({"spending": judge_spending(counts(PROFILE | {"calls": 9000}))})
    assert lines[0] == "training's time: backward 50%, forward 25%, optimizer 10%, validation 8%, other 4%, data 2%, checkpoints 1%"
    assert lines[1] == "of 3 steps of 0.1 s, the costliest of 9000 operations:"
    assert lines[2].split() == ["aten::addmm", "40.0%", "12", "x", "3000", "µs"]
    assert "train.batch" in lines[-1]


def test_the_report_shows_it(empty: World) -> None:
    def page() -> str:
        return Page(write_report(empty.project, empty.store, empty.ledger).read_text()).text

    assert "Where the time went" in page()
    make(empty, "old", "model", [], model_counts(200))
    assert "went was not noted" in page()
    make(empty, "new", "model", [], model_counts(200) | counts(PROFILE | {"calls": 9000}))
    told = ("backward 50 s 50.0% from the loss to gradients", "other 4 s 4.0%", "aten::addmm 40.0% 12 x 3000 µs", "A step is 9000")
    for words in told:
        assert words in page(), words
