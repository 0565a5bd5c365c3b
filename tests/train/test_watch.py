"""The divergence watch: poisoned batches are left out, a rate far too high is lowered or given up, a calm run is untouched."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import Counting, Seen, StopAt, make_loop, run
from test_ways import Net, Rates, Sums

from treadle.core.batch import Batch
from treadle.core.errors import Interrupted, WorkError
from treadle.core.runtime import choose_runtime
from treadle.spec.train import Train
from treadle.train.checkpoint import _outdated
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES
from treadle.train.watch import Diverged, Return, Watch

BAD = {30, 31, 70}


class Poisoned(Sums):
    """Some batches hold infinities."""

    def batch_at(self, step: int, batch: int) -> Batch:
        whole = super().batch_at(step, batch)
        if step in BAD:
            whole.inputs["x"][batch // 2, 1] = torch.inf
        return whole


class Without(Sums):
    """The same data without those batches."""

    def batch_at(self, step: int, batch: int) -> Batch:
        good = [number for number in range(step + len(BAD) + 1) if number not in BAD]
        return super().batch_at(good[step], batch)


class Shifted(Sums):
    """For twenty batches the right answers are thousands of times larger: the loss jumps, and stays there."""

    def batch_at(self, step: int, batch: int) -> Batch:
        whole = super().batch_at(step, batch)
        if 100 <= step < 120:
            whole.targets["y"] *= 1e4
        return whole


def loop_of(folder: Path, batches: Sums, steps: int = 120, rate: float = 0.02, **settings: object) -> Loop:
    folder.mkdir(parents=True, exist_ok=True)
    given = Train.model_validate({"warmup": 0.0, "checkpoint_every": "1 h", "validate_every": 0, **settings})
    torch.manual_seed(7)
    runtime = choose_runtime("float32", 1)
    loop = Loop(Net(), OBJECTIVES["answers"], batches, _measured, Horizon(steps, None), given, 16, rate, runtime, folder, "records")
    loop.resume()
    return loop


def _measured(model: Net) -> float:
    model.eval()
    with torch.no_grad():
        return float(model.loss(Sums().batch_at(1000, 64)))


def same(one: Loop, two: Loop) -> bool:
    other = two.model.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.model.state_dict().items())


def test_poisoned_batches_are_left_out_as_if_they_had_never_been(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Bit for bit, with batch norms' statistics among the weights: an infinity that only passed through would stay in them."""
    loop = loop_of(tmp_path / "poisoned", Poisoned())
    loop.run([])
    returns = loop.position.watch.returns
    assert [(back.at, back.to, back.offset, back.rate) for back in returns] == [(30, 30, 1, 1), (30, 30, 2, 1), (68, 68, 3, 1)]
    said = capsys.readouterr().err
    assert "at step 31 the loss is" in said
    assert "holds infinities: went back to step 30, skipped 1 batch" in said
    clean = loop_of(tmp_path / "clean", Without())
    clean.run([])
    assert same(loop, clean)
    assert not clean.position.watch.returns


def test_data_of_nothing_but_infinities_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "BAD", range(30, 1000))
    with pytest.raises(WorkError, match=r"at step 31 .* holds infinities") as caught:
        loop_of(tmp_path, Poisoned()).run([])
    assert "values in the data" in caught.value.cure


def test_a_loss_that_jumps_goes_back_behind_its_beginning(tmp_path: Path):
    loop, seen = loop_of(tmp_path, Shifted(), steps=250, rate=0.05, schedule="constant"), Rates()
    loop.run([seen])
    first = loop.position.watch.returns[0]
    assert (first.at, first.to) == (107, 91)  # seen in the eighth such step, gone back by sixteen
    assert first.offset == 17
    assert "skipped 17 batches" in first.words
    last = loop.position.watch.returns[-1]
    assert last.rate < 1
    assert seen.seen[-1] == pytest.approx(0.05 * last.rate)
    assert _measured(loop.model) < 0.3
    steps = [json.loads(line)["step"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [step for step in steps if step] == sorted(steps)  # what was undone is not told


@pytest.mark.parametrize("data", [Poisoned, Shifted], ids=lambda data: data.__name__)
@pytest.mark.parametrize(("every", "stop"), [("1 h", 20), ("1 h", 103), ("1 h", 130), ("1 ms", 103)])
def test_stopped_and_gone_on_it_is_the_same_run(tmp_path: Path, data: Callable[[], Sums], every: str, stop: int):
    settings = {"average": "ema", "schedule": "constant"}
    whole = loop_of(tmp_path / "whole", data(), steps=140, **settings)
    whole.run([])
    cut = loop_of(tmp_path / "cut", data(), steps=140, checkpoint_every=every, **settings)
    with pytest.raises(Interrupted):
        cut.run([StopAt(stop, signal.SIGINT)])
    cut.close()
    again = loop_of(tmp_path / "cut", data(), steps=140, checkpoint_every=every, **settings)
    again.run([])
    assert whole.position.watch == again.position.watch
    assert whole.position.watch.returns
    assert same(whole, again)


def test_dropout_and_language_models_too(tmp_path: Path):
    """The masks after a way back are those of a run without the poisoned batch."""

    class Holes(Counting):
        def __init__(self, poisoned: bool) -> None:
            self.poisoned = poisoned

        def batch_at(self, step: int, batch: int) -> Batch:
            return super().batch_at(step if self.poisoned or step < 6 else step + 1, batch)

    def made(folder: Path, poisoned: bool) -> Loop:
        torch.manual_seed(3)
        loop = make_loop(folder, budget="12 steps", batches=Holes(poisoned), validate_every=0)
        for layer in loop.model.trunk.layers:
            layer.dropout = 0.3
        if poisoned:
            plain = loop.objective
            wrong = Counting().batch_at(6, 8).inputs["text"]

            def objective(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
                loss = plain(model, batch)
                return loss * torch.inf if torch.equal(batch.inputs["text"], wrong) else loss

            loop.gradients.objective = objective
        return loop

    poisoned = made(tmp_path / "poisoned", True)
    poisoned.run([])
    clean = made(tmp_path / "clean", False)
    clean.run([])
    assert [(back.at, back.to) for back in poisoned.position.watch.returns] == [(6, 6)]
    for ours, theirs in zip(poisoned.model.parameters(), clean.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rate_that_is_too_high_is_halved_until_it_learns(tmp_path: Path):
    loop = loop_of(tmp_path, Sums(), steps=300, rate=1.5, optimizer={"sgd": {"momentum": 0.9}}, clip=0, schedule="constant")
    loop.run([])
    returns = loop.position.watch.returns
    assert returns
    assert returns[-1].rate <= 0.5
    assert _measured(loop.model) < 1.0  # of answers with a variance of 4


def test_a_rate_beyond_all_measure_is_given_up_with_the_cure(tmp_path: Path):
    with pytest.raises(WorkError, match="training diverges") as caught:
        loop_of(tmp_path, Sums(), rate=1e20, clip=0).run([])
    assert "lower train.learning_rate" in caught.value.cure


def test_with_patience_no_validation_is_undone(tmp_path: Path):
    """Its weights may be the kept ones."""
    loop = loop_of(tmp_path, Shifted(), steps=200, validate_every=0.05, patience=50, schedule="constant")
    loop.run([])
    assert loop.position.watch.returns[0].to == 100  # and not 91


CURVES = {
    "falls with noise": lambda t, noise: 5 * np.exp(-t / 300) + 1 + 0.1 * noise,
    "noise without end": lambda t, noise: 2 + 0.5 * noise,
    "heavy tails": lambda t, noise: 1 + 0.3 * np.abs(noise) ** 3,
    "learned by heart": lambda t, noise: 3 * np.exp(-t / 60) + 1e-4 * np.abs(noise),
    "waves": lambda t, noise: 2 + 0.3 * np.sin(t / 40) + 0.05 * noise,
    "no noise": lambda t, noise: 2 + 0 * t,
    "slowly worse": lambda t, noise: 1 + t / 2000 + 0.1 * noise,
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_calm_runs_raise_no_alarm(name: str):
    time = np.arange(3000)
    curve = CURVES[name](time, np.random.default_rng(0).standard_normal(3000))
    watch = Watch()
    for step, loss in enumerate(curve):
        watch.see(float(loss), step + 1)
    assert watch.bound is not None


@pytest.mark.parametrize("name", CURVES)
def test_the_same_curves_with_a_loss_as_at_their_start_do(name: str):
    time = np.arange(500)
    curve = CURVES[name](time, np.random.default_rng(0).standard_normal(500))
    curve[400:] += 4 * (1 + np.ptp(curve))
    watch = Watch()
    for step, loss in enumerate(curve[:407]):
        watch.see(float(loss), step + 1)
    with pytest.raises(Diverged, match="at step 408 "):
        watch.see(float(curve[407]), 408)


def test_a_calm_run_is_not_touched(tmp_path: Path):
    loop, seen = run(tmp_path, budget="150 steps")
    assert loop.position.watch.returns == []
    assert [step.step for step in seen.steps] == list(range(1, 151))
    assert isinstance(seen, Seen)


def test_the_last_way_back_that_holds_for_a_step_counts():
    watch = Watch(returns=[Return(110, 100, 11, 1.0, 1, ""), Return(105, 50, 67, 0.5, 2, ""), Return(90, 80, 78, 0.25, 3, "")])
    assert [watch.offset(step) for step in (0, 49, 50, 79, 80, 100, 500)] == [0, 0, 67, 67, 78, 78, 78]
    assert [watch.rate(step) for step in (49, 79, 100)] == [1.0, 0.5, 0.25]


def test_trouble_long_after_is_not_in_a_row():
    watch = Watch()
    for at in (100, 500, 900, 1300, 1700, 2100, 2500):
        back = watch.turn_back(at, Diverged("infinite", finite=False))
        assert (back.to, back.rate, back.tries) == (at, 1.0, 1)
    assert watch.offset(3000) == 7
    for _ in range(4):
        watch.turn_back(2510, Diverged("infinite", finite=False))
    with pytest.raises(WorkError, match="infinite"):
        watch.turn_back(2510, Diverged("infinite", finite=False))


@pytest.mark.parametrize(
    ("steps", "gone"),
    [
        ([1, 2, 3], [1]), ([300, 600, 900], [300]), ([250, 260, 300, 400, 410, 420], [250, 300, 400]),
        ([300, 400, 600, 700, 800, 810, 820], [400, 700]), ([10, 300, 600, 800, 1030, 1031, 1032], [10, 300]),
    ],
    ids=str,
)
def test_checkpoints_to_go_back_to_stay(steps: list[int], gone: list[int]):
    folders = [Path(f"step-{step:08d}") for step in steps]
    assert _outdated(folders, 2) == [Path(f"step-{step:08d}") for step in gone]
