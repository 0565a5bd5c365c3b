"""The plan of a model of records: its own steps, timed on its own data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_records import write_records_project
from treadle.core.errors import UserError
from treadle.pipeline import Workshop, build, plan
from treadle.plan.records import RecordsPlan
from treadle.show import outcome as shown


def planned(folder: Path, *overrides: str) -> tuple[Workshop, RecordsPlan]:
    workshop = Workshop.open(write_records_project(folder, *overrides))
    made = plan(workshop)
    assert isinstance(made, RecordsPlan)
    return workshop, made


def test_steps_and_parameters_are_those_of_the_run(tmp_path: Path):
    workshop, made = planned(tmp_path)
    outcome = build(workshop, made)
    counts = workshop.store.open(outcome.artifacts["model"]).counts
    assert (made.steps, made.parameters) == (counts["steps"], counts["parameters"])
    assert made.epochs == pytest.approx(12, rel=0.1)
    (row,) = outcome.plan["stages"]
    assert row["stage"] == "train"
    assert row["measured"] == pytest.approx(outcome.seconds["train"], rel=0.01)
    text = "\n".join(shown(outcome.as_dict()))
    assert "measured / predicted" in text


def test_budgets_in_steps_and_time(tmp_path: Path):
    _, steps = planned(tmp_path / "a", "train.budget=7 steps")
    _, seconds = planned(tmp_path / "b", "train.budget=2 s")
    assert steps.steps == 7
    assert seconds.seconds == pytest.approx(2, abs=1)
    assert seconds.steps > 1


def test_money_follows_from_time_and_prices(tmp_path: Path):
    _, made = planned(tmp_path, "plan.price=3600", "plan.energy_price=0", "plan.currency=USD")
    assert made.money == pytest.approx(made.seconds)
    assert f"{made.currency}" == "USD"
    assert any("USD" in line for line in made.lines())


def test_what_does_not_fit_is_refused(tmp_path: Path):
    _, made = planned(tmp_path, "plan.memory=1 MB")
    with pytest.raises(UserError, match="will not fit"):
        made.check()
