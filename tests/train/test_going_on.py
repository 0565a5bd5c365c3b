"""Trainings that go on from finished or interrupted ones: longer, elsewhere, or otherwise."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from safetensors.torch import load_file

from tiny import write_project
from treadle.core import native
from treadle.core.errors import Interrupted, UserError, WorkError
from treadle.core.project import SpecError, load_project
from treadle.core.runtime import Runtime
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.report.trace import trace
from treadle.store.artifacts import Artifact, Store
from treadle.store.ledger import Ledger
from treadle.train import stage
from treadle.train.hooks import Step
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

LONGER = ("train.schedule=constant", "train.warmup=5 steps")


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(runtime: Runtime) -> float:
        return 1e9

    monkeypatch.setattr(stage, "matrix_peak", peak)


class Trainer(Protocol):
    def __call__(self, folder: Path, *overrides: str, hooks: Sequence[Any] = ()) -> Artifact: ...


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Trains the model of the tiny project in a folder; its data is prepared once for all."""
    first = tmp_path_factory.mktemp("prepared")
    project = write_project(first)
    make_dataset(project, Store(project.store), make_corpus(project, Store(project.store)))

    def trained(folder: Path, *overrides: str, hooks: Sequence[Any] = ()) -> Artifact:
        if not (folder / "treadle.yaml").exists():
            shutil.copytree(first, folder, dirs_exist_ok=True)
        project = load_project(folder, overrides)
        store = Store(project.store)
        dataset = make_dataset(project, store, make_corpus(project, store))
        return train_model(project, store, dataset, first_round(project, dataset), hooks)

    return trained


def weights(model: Artifact) -> bytes:
    return (model.path / "model.safetensors").read_bytes()


def losses(model: Artifact) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, figures: Step) -> None:
        if figures.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        pass


@pytest.mark.parametrize(("settings", "at"), [
    (LONGER, 20),
    ((*LONGER, "train.average=ema", "model.trunk.transformer.dropout=0.1", "train.accumulate=2"), 20),
    ((*LONGER, "train.optimizer=schedule_free"), 20),
    (("train.schedule={stable: {fall: 40%}}", "train.warmup=5 steps", "train.optimizer=muon"), 12),
    (("train.schedule=constant", "train.warmup=0"), 20),
], ids=["constant", "ema-dropout", "schedule-free", "stable", "no-warmup"])
def test_a_longer_budget_goes_on_and_is_the_long_run_bit_for_bit(
    tmp_path: Path, train: Trainer, settings: tuple[str, ...], at: int, capsys: pytest.CaptureFixture[str]
):
    straight = train(tmp_path / "straight", *settings, "train.budget=40 steps")
    short = train(tmp_path / "cut", *settings, "train.budget=20 steps")
    capsys.readouterr()
    longer = train(tmp_path / "cut", *settings, "train.budget=40 steps")
    assert f"going on from the checkpoint of {short.id} at step {at}" in capsys.readouterr().err
    assert weights(longer) == weights(straight)
    assert weights(longer) != weights(short)
    assert losses(longer) == losses(straight)
    assert longer.id == straight.id
    assert longer.counts["went_on_from"] == {"model": short.id, "step": at}
    assert longer.counts["validation_loss"] == straight.counts["validation_loss"]
    assert straight.counts["went_on_from"] is None


@pytest.mark.parametrize("settings", [
    (), ("train.schedule=cosine", "train.warmup=5 steps"), ("train.schedule=constant",), (*LONGER, "train.patience=9"),
    ("train.schedule=plateau", "train.warmup=0"), (*LONGER, "train.average=swa"),
], ids=["linear", "cosine", "warmup-share", "patience", "plateau", "swa"])
def test_where_the_first_steps_would_be_others_it_begins_anew(tmp_path: Path, train: Trainer, settings: tuple[str, ...]):
    train(tmp_path, *settings, "train.budget=10 steps")
    longer = train(tmp_path, *settings, "train.budget=20 steps")
    assert (longer.counts["went_on_from"], longer.counts["resumed_at"]) == (None, 0)


def test_another_rate_is_not_the_same_run(tmp_path: Path, train: Trainer):
    train(tmp_path, *LONGER, "train.budget=10 steps")
    assert train(tmp_path, *LONGER, "train.budget=20 steps", "train.learning_rate=0.02").counts["went_on_from"] is None


def test_killed_after_it_went_on_it_goes_on_again(tmp_path: Path, train: Trainer):
    straight = train(tmp_path / "straight", *LONGER, "train.budget=30 steps")
    short = train(tmp_path / "cut", *LONGER, "train.budget=10 steps")
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", *LONGER, "train.budget=30 steps", hooks=[StopAt(20)])
    longer = train(tmp_path / "cut", *LONGER, "train.budget=30 steps")
    assert (longer.counts["resumed_at"], longer.counts["went_on_from"]) == (20, {"model": short.id, "step": 10})
    assert weights(longer) == weights(straight)


FORKS = {
    "rate": ("train.learning_rate=0.002",), "schedule": ("train.schedule=cosine",), "optimizer": ("train.optimizer=sgd",),
    "average": ("train.average=ema",), "batch": ("train.batch=8",),
}


@pytest.mark.parametrize("change", FORKS)
def test_a_fork_shares_the_first_steps_and_then_goes_its_own_way(
    tmp_path: Path, train: Trainer, change: str, capsys: pytest.CaptureFixture[str]
):
    base = train(tmp_path, "train.budget=20 steps", "train.keep_every=8", "train.schedule=constant")
    assert base.counts["checkpoints"] == [8, 16, 20]
    fork = train(tmp_path, "train.budget=20 steps", f"train.continue_from={base.id}@8", "train.schedule=constant", *FORKS[change])
    assert losses(fork)[:8] == losses(base)[:8]
    assert (losses(fork)[9:] == losses(base)[9:]) is (change == "average")  # which leaves the training itself as it is
    assert weights(fork) != weights(base)
    assert len(losses(fork)) == 20
    assert fork.parents == (*base.parents, base.id)
    assert fork.config["continue_from"] == fork.counts["went_on_from"] == {"model": base.id, "step": 8}
    anew = "begins anew" in capsys.readouterr().err
    assert anew is (change in ("optimizer", "average"))


def test_a_fork_with_nothing_changed_is_the_run_itself(tmp_path: Path, train: Trainer):
    settings = ("train.budget=20 steps", "train.average=ema")
    base = train(tmp_path, *settings, "train.keep_every=8")
    assert weights(train(tmp_path, *settings, f"train.continue_from={base.id[:12]}@8")) == weights(base)


def test_an_average_that_a_fork_begins_starts_at_the_weights_it_forked_from(tmp_path: Path, train: Trainer):
    """At a rate of nearly nothing the mean is the weights themselves; with the first weights in it, it would not be."""
    base = train(tmp_path, "train.budget=20 steps")
    still = ("train.budget=21 steps", f"train.continue_from={base.id}", "train.learning_rate=1e-12")
    plain, mean = train(tmp_path, *still), train(tmp_path, *still, "train.average={ema: {decay: 0.9}}")
    found, expected = (load_file(model.path / "model.safetensors") for model in (mean, plain))
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in expected.items())


def test_lineage_names_the_training_that_was_gone_on_from(tmp_path: Path, train: Trainer):
    base = train(tmp_path, "train.budget=10 steps", "train.keep_best=true")
    fork = train(tmp_path, "train.budget=12 steps", f"train.continue_from={base.id}@best", "train.schedule=constant")
    project = load_project(tmp_path)
    told = "\n".join(trace(Store(project.store), Ledger(project.store), fork.id).lines())
    assert f"went on from step {base.counts['best_step']} of {base.id}" in told
    assert f"model {base.id}  [verified]" in told


def test_what_cannot_be_gone_on_from_is_said(tmp_path: Path, train: Trainer):
    base = train(tmp_path, "train.budget=10 steps")
    cases = [
        (("train.continue_from=model-nothing",), "there is no model"), (("train.continue_from=v7",), "never a version v7"),
        ((f"train.continue_from={base.id}@4",), "has no checkpoint of step 4"),
        ((f"train.continue_from={base.id}", "train.budget=10 steps", "train.learning_rate=0.1"), "used up at step 10"),
        ((f"train.continue_from={base.id}", "model.trunk.transformer.hidden=80"), "of another shape"),
        ((f"train.continue_from={base.id}", "model.inputs.text.tokenizer.bpe=300"), "other words or characters"),
    ]
    for overrides, said in cases:
        with pytest.raises(UserError, match=said):
            train(tmp_path, *overrides)
    with pytest.raises(SpecError, match=r"train.continue_from"):
        load_project(tmp_path, [f"train.continue_from={base.id}@last"])


def test_states_are_kept_of_the_newest_model_and_of_those_that_ask_for_it(tmp_path: Path, train: Trainer):
    kept = tmp_path / ".treadle" / "states"
    first = train(tmp_path, "train.budget=4 steps", "train.keep_every=2")
    second = train(tmp_path, "train.budget=5 steps")
    assert sorted(path.name for path in kept.iterdir()) == sorted([first.id, second.id])
    third = train(tmp_path, "train.budget=6 steps")
    assert sorted(path.name for path in kept.iterdir()) == sorted([first.id, third.id])
    again = ("train.budget=8 steps", f"train.continue_from={third.id}")
    fork = train(tmp_path, *again)
    assert sorted(path.name for path in kept.iterdir()) == sorted([first.id, third.id, fork.id])
    assert train(tmp_path, *again).id == fork.id  # third is still there to be named


def test_interrupted_here_it_goes_on_on_a_machine_with_other_threads(
    tmp_path: Path, train: Trainer, capsys: pytest.CaptureFixture[str]
):
    whole = train(tmp_path / "whole", "train.budget=8 steps")
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", "train.budget=8 steps", hooks=[StopAt(5)])
    try:
        moved = train(tmp_path / "cut", "train.budget=8 steps", "train.threads=2")
    finally:
        torch.set_num_threads(1)
    said = capsys.readouterr().err
    by = "computed on cpu in float32 by 1 thread" + ", with compiled kernels" * (native.kernels() is not None)
    assert re.search(rf"the first 5 steps were {by}: the result is the same but for rounding", said)
    assert moved.id != whole.id
    earlier = moved.counts["runtime"]["earlier"]
    assert [(part["since"], part["threads"]) for part in earlier] == [(0, 1)]
    assert whole.counts["runtime"]["earlier"] == []
    assert losses(moved)[:5] == losses(whole)[:5]
    found, expected = (load_file(model.path / "model.safetensors") for model in (moved, whole))
    assert all(torch.allclose(found[name], tensor, atol=1e-4) for name, tensor in expected.items())
    again = train(tmp_path / "cut", "train.budget=8 steps", "train.threads=2")
    assert again.id == moved.id
    project = load_project(tmp_path / "cut")
    told = "\n".join(trace(Store(project.store), Ledger(project.store), moved.id).lines())
    assert re.search(rf"from step 1 {by}, later on another: exact but for rounding", told)


def test_two_processes_do_not_train_the_same_at_once(tmp_path: Path, train: Trainer):
    class Second:
        def on_step(self, figures: Step) -> None:
            with pytest.raises(WorkError, match="another process works on this already"):
                train(tmp_path, "train.budget=2 steps")

        def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
            pass

    assert train(tmp_path, "train.budget=2 steps", hooks=[Second()]).counts["steps"] == 2
