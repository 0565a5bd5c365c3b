"""The plan of a network: its own steps, timed on its own data, once."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tiny import SPEC, write_project
from tiny_records import write_records_project
from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.pipeline import Workshop, build, plan
from treadle.plan.records import RecordsPlan
from treadle.show import outcome as shown
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

TEXT = re.sub(r"evaluate: .*", "", SPEC).replace("budget: 30 steps", "budget: 8k tokens")
NETWORKS = {
    "lstm": "{recurrent: {width: 24, embedding: 16}}\n  heads: {next: next_token}",
    "masked": "{transformer: {depth: 1, width: 32, heads: 2}}\n  heads: {hidden: masked_token}",
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_running_text_are_planned_too(tmp_path: Path, kind: str):
    text = re.sub(r"trunk: .*", f"trunk: {NETWORKS[kind]}", TEXT)
    workshop = Workshop.open(write_project(tmp_path, text=text))
    made = plan(workshop)
    assert isinstance(made, RecordsPlan)
    assert made.unit == "tokens"
    dataset = workshop.prepared()[1]
    counts = train_model(workshop.project, workshop.store, dataset, first_round(workshop.project, dataset)).counts
    assert (made.steps, made.parameters) == (counts["steps"], counts["parameters"])
    assert made.steps == math.ceil(8000 / (4 * 32))
    train = dataset.counts["parts"]["train"]["tokens"]
    assert made.epochs == pytest.approx(8000 / train, rel=0.05)
    assert any("stretches of text a step" in line for line in made.lines())


def test_nothing_is_timed_twice_nor_for_a_model_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workshop, made = planned(tmp_path)
    assert (workshop.store.root / "steps.json").exists()
    assert "timed before" not in capsys.readouterr().err
    again = plan(workshop)
    assert isinstance(again, RecordsPlan)
    assert again.step_seconds == made.step_seconds  # two timings would differ
    assert "timed before" in capsys.readouterr().err
    longer = plan(Workshop.open(load_project(tmp_path, ["train.budget=24 epochs"])), only_new=True)
    assert isinstance(longer, RecordsPlan)
    assert longer.step_seconds == made.step_seconds
    assert longer.seconds > made.seconds
    assert "timed before" in capsys.readouterr().err
    split = plan(Workshop.open(load_project(tmp_path, ["seed=1", "data.split.test=25%"])), only_new=True)
    assert isinstance(split, RecordsPlan)
    assert split.units < made.units
    other = plan(Workshop.open(load_project(tmp_path, ["model.trunk.mlp.width=32"])), only_new=True)
    assert isinstance(other, RecordsPlan)
    assert other.parameters > made.parameters
    build(workshop, None)
    assert plan(workshop, only_new=True) is None
    (workshop.store.root / "steps.json").write_text("{cut")
    assert plan(workshop) is not None


@pytest.mark.parametrize("change", ["optimizer=muon", "accumulate=2", "clip=0", "groups={'heads.*': {rate: 0}}"])
def test_what_changes_a_step_is_timed_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str):
    planned(tmp_path)
    plan(Workshop.open(load_project(tmp_path, [f"train.{change}"])))
    assert "timed before" not in capsys.readouterr().err


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
