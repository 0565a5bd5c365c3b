"""Optimisers, schedules and averages in the loop: over an interruption, in what is validated, and in what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from treadle.core.batch import Batch
from treadle.core.runtime import choose_runtime
from treadle.spec.train import Train
from treadle.train.hooks import Step
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

STEPS = 20


class Net(torch.nn.Module):
    """A batch norm between two layers, fitted to the sum of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh())
        self.heads = torch.nn.Linear(8, 1)

    def loss(self, batch: Batch) -> torch.Tensor:
        return (self.heads(self.trunk(batch.inputs["x"]))[:, 0] - batch.targets["y"]).square().mean()

    def terms(self, batch: Batch) -> int:
        return batch.size


class Sums:
    def batch_at(self, step: int, batch: int) -> Batch:
        x = torch.randn(batch, 4, generator=torch.Generator().manual_seed(step))
        return Batch({"x": x}, {"y": x.sum(1)}, {})


class Rates:
    def __init__(self) -> None:
        self.seen: list[float] = []
        self.losses: list[float] = []

    def on_step(self, figures: Step) -> None:
        self.seen.append(figures.learning_rate)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.losses.append(loss)


def loop_of(folder: Path, validate: Callable[[Any], float] | None = None, **settings: object) -> Loop:
    given = Train.model_validate({"warmup": 0.0, "checkpoint_every": "1 h", **settings})
    return Loop(
        Net(), OBJECTIVES["answers"], Sums(), validate or measured, Horizon(STEPS, None), given, 16, 0.02,
        choose_runtime("float32", 1), folder, "records",
    )


def measured(model: Net) -> float:
    model.eval()
    with torch.no_grad():
        return float(model.loss(Sums().batch_at(1000, 64)))


def trained(folder: Path, stop: int | None = None, **settings: object) -> tuple[Loop, Rates]:
    """After ``STEPS``, in one go or in a new process's loop after ``stop`` of them."""
    folder.mkdir()
    if stop:
        first = loop_of(folder, **settings)
        first.resume()
        while first.position.step < stop:
            figures = first._step(0.0, 0.0)
            if first._validation_due():
                first._validate(figures, [])
        first.save()
        first.history.close()
    loop, rates = loop_of(folder, **settings), Rates()
    assert loop.resume().step == (stop or 0)
    loop.run([rates])
    loop.history.close()
    return loop, rates


WAYS: list[dict[str, object]] = [
    {"optimizer": "sgd"}, {"optimizer": "muon"}, {"optimizer": "adafactor"}, {"optimizer": "schedule_free", "schedule": "constant"},
    {"optimizer": "schedule_free", "patience": 2}, {"average": "ema"}, {"average": {"swa": {"last": "60%"}}},
    {"average": "ema", "patience": 2}, {"schedule": {"plateau": {"patience": 1}}}, {"schedule": "one_cycle"},
]


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("stop", [7, 15])
def test_interrupted_and_gone_on_it_is_the_same_run(tmp_path: Path, settings: dict[str, object], stop: int):
    whole, cut = trained(tmp_path / "whole", **settings)[0], trained(tmp_path / "cut", stop, **settings)[0]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, cut.model.state_dict()[name]), name
    assert whole.position.validation_loss == cut.position.validation_loss
    assert whole.position.falls == cut.position.falls


@pytest.mark.parametrize("settings", [{"average": "ema"}, {"average": "swa"}, {"optimizer": "schedule_free"}], ids=str)
def test_what_is_validated_and_kept_is_the_mean_and_what_is_trained_is_not(tmp_path: Path, settings: dict[str, object]):
    loop, rates = trained(tmp_path / "run", **settings)
    assert measured(loop.model) == pytest.approx(loop.position.validation_loss)
    going_on = Net()
    going_on.load_state_dict(load_file(next((tmp_path / "run/checkpoints").glob(f"step-*{STEPS}")) / "weights.safetensors"))
    assert not torch.equal(going_on.heads.weight, loop.model.heads.weight)
    assert measured(going_on) != pytest.approx(rates.losses[-1])


def test_an_average_leaves_the_training_as_it_is(tmp_path: Path):
    for name, settings in (("plain", {}), ("mean", {"average": "ema"})):
        trained(tmp_path / name, **settings)
    files = [next((tmp_path / name / "checkpoints").glob(f"step-*{STEPS}")) / "weights.safetensors" for name in ("plain", "mean")]
    plain, mean = (load_file(file) for file in files)
    assert all(torch.equal(plain[name], mean[name]) for name in plain)


def test_on_a_plateau_the_rate_falls_when_validation_does_not(tmp_path: Path):
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5])
    loop = loop_of(tmp_path, lambda model: next(losses), schedule={"plateau": {"factor": 0.5, "patience": 2}})
    loop.resume()
    rates = Rates()
    loop.run([rates])
    loop.history.close()
    assert rates.seen[::2] == pytest.approx([0.02] * 4 + [0.01] * 3 + [0.005] * 2 + [0.0025])
