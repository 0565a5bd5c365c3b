"""The gradient noise scale beside its exact value, and where it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_hooks import events
from test_loop import make_loop, run
from torch import Tensor

from treadle.core.batch import Batch
from treadle.core.runtime import choose_runtime
from treadle.spec.train import Train
from treadle.train.hooks import Step, TensorBoardHook
from treadle.train.loop import Horizon, Loop
from treadle.train.noise import NoiseScale
from treadle.train.objectives import OBJECTIVES

WIDTH, DEVIATION = 10, 2.0


class Line(torch.nn.Module):
    """Half the squared error of w.x, where the right answers are noise around 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.full((WIDTH,), 0.5))

    def loss(self, batch: Batch) -> Tensor:
        return 0.5 * (batch.inputs["x"] @ self.weights - batch.targets["y"]).square().mean()

    def terms(self, batch: Batch) -> int:
        return batch.size


class Gauss:
    def batch_at(self, step: int, batch: int) -> Batch:
        draw = torch.Generator().manual_seed(step)
        x, y = torch.randn(batch, WIDTH, generator=draw), DEVIATION * torch.randn(batch, generator=draw)
        return Batch({"x": x}, {"y": y})


def regression(folder: Path, batch: int, workers: int, **settings: object) -> Loop:
    given = Train.model_validate({"checkpoint_every": "1 h", "validate_every": 0, "weight_decay": 0, **settings})
    runtime = replace(choose_runtime("float32", 1), workers=workers)
    folder.mkdir(exist_ok=True)
    horizon, objective = Horizon(800, None), OBJECTIVES["answers"]
    loop = Loop(Line(), objective, Gauss(), lambda model: 0.0, horizon, given, batch, 1e-9, runtime, folder, "records")
    loop.resume()
    return loop


@pytest.mark.parametrize(
    ("batch", "workers", "parts"), [(8, 1, 2), (32, 1, 8), (32, 2, 1), (32, 2, 4)], ids=["2 parts", "8 parts", "2 workers", "both"]
)
def test_it_is_that_of_linear_regression(tmp_path: Path, batch: int, workers: int, parts: int):
    """With x of unit covariance and noise of deviation s, the gradient of one example has the mean w and a second moment of
    (n + 2) |w|^2 + n s^2. So tr(S) / |G|^2 = n + 1 + n s^2 / |w|^2."""
    loop = regression(tmp_path, batch, workers, accumulate=parts)
    loop.run([])
    loop.close()
    size = WIDTH * 0.25
    exact = WIDTH + 1 + WIDTH * DEVIATION**2 / size
    noise = loop.position.noise
    share = 1 - 0.99**noise.count
    assert noise.count == 800
    assert noise.signal / share == pytest.approx(size, rel=0.25)
    assert noise.value == pytest.approx(exact, rel=0.3)


def test_estimates_from_exact_moments_are_exact():
    """Of an expected squared norm |G|^2 + tr(S) / b, with |G|^2 = 3 and tr(S) = 48."""
    noise = NoiseScale()
    for _ in range(30):
        noise.update(3 + 48 / 4, 4, 3 + 48 / 32, 32)
    assert noise.value == pytest.approx(16)


def test_without_a_signal_nothing_is_said():
    noise = NoiseScale()
    for _ in range(30):
        noise.update(1.0, 4, 0.05, 32)  # the whole's is less than chance alone would leave of the part's
    assert noise.value is None


def test_a_batch_in_one_part_says_nothing(tmp_path: Path):
    loop, seen = run(tmp_path, budget="30 steps")
    assert all(step.noise_scale is None for step in seen.steps)
    assert "noise_scale" not in (tmp_path / "history.jsonl").read_text()
    assert loop.position.noise.count == 0


def test_it_stands_in_the_history_and_goes_on_after_an_interruption(tmp_path: Path):
    whole, seen = run(tmp_path / "whole", budget="40 steps", accumulate=2)
    lines = [json.loads(line) for line in (tmp_path / "whole/history.jsonl").read_text().splitlines()]
    told = {line["step"]: line["noise_scale"] for line in lines if "noise_scale" in line}
    assert told
    assert min(told) >= 20
    assert told == {step.step: round(step.noise_scale, 1) for step in seen.steps if step.noise_scale is not None}
    cut = make_loop(tmp_path / "cut", budget="40 steps", accumulate=2)
    while cut.position.step < 13:
        cut._step(0.0, 0.0)
    cut.save()
    cut.close()
    again, _ = run(tmp_path / "cut", budget="40 steps", accumulate=2)
    assert again.position.noise == whole.position.noise


def test_tensorboard_shows_it_where_it_is_known(tmp_path: Path):
    hook = TensorBoardHook(tmp_path, 0)
    for step, noise in ((1, None), (2, 64.0)):
        hook.on_step(Step(step, step, step, 1.0, 0.1, 1.0, 1.0, step / 2, {}, noise))
    hook.close()
    tags = [(event.step, value.tag) for event in events(tmp_path) for value in event.summary.value]
    assert [step for step, tag in tags if tag == "train/noise_scale"] == [2]
    assert (1, "train/loss") in tags


def test_tensorboard_takes_back_steps_that_a_run_went_back_over(tmp_path: Path):
    hook = TensorBoardHook(tmp_path, 0)
    for step in (1, 2, 3, 2, 3, 4):
        hook.on_step(Step(step, step, step, 1.0, 0.1, 1.0, 1.0, step / 4, {}))
    hook.close()
    assert [event.step for event in events(tmp_path) if event.HasField("session_log")] == [2]
