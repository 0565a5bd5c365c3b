"""Half precisions and 8-bit states in the loop: beside float32, over an overflow, and over an interruption."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Counting, StopAt, Uneven, make_loop, run

from tiny import SHAPE
from treadle.core.batch import Batch
from treadle.core.errors import Interrupted, WorkError
from treadle.core.gradients import Gradients
from treadle.core.runtime import choose_precision, choose_runtime
from treadle.core.scaling import LossScale
from treadle.model.layers.cross_entropy import cross_entropy
from treadle.model.model import make_model
from treadle.report.facts import gone_on
from treadle.spec.train import Train
from treadle.train import range_test
from treadle.train.loop import Loop
from treadle.train.objectives import OBJECTIVES
from treadle.train.watch import Diverged

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("precision", "band"), [("fp16", 0.005), ("bf16", 0.02)])
def test_the_curve_is_that_of_float32_within_a_band(tmp_path: Path, precision: str, band: float):
    _, seen = run(tmp_path / precision, budget="30 steps", runtime=choose_runtime(precision, 1))
    _, plain = run(tmp_path / "float32", budget="30 steps")
    for ours, theirs in zip(seen.steps, plain.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=band)
    assert seen.validations[-1][1] == pytest.approx(plain.validations[-1][1], rel=band)
    assert [s.loss for s in seen.steps] != [s.loss for s in plain.steps]
    assert plain.steps[-1].loss < 0.9 * plain.steps[0].loss


def far_too_high(loop: Loop) -> Loop:
    loop.position.scaling = LossScale(2.0**24)
    return loop


def test_gradients_that_overflow_change_nothing_lower_the_scale_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    loop = far_too_high(make_loop(tmp_path / "high", "60 steps", runtime=choose_runtime("fp16", 1)))
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    figures = loop._step(0.0, 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in loop.model.state_dict().items())
    assert (figures.step, figures.gradient_norm, figures.loss_scale) == (1, 0.0, 2.0**23)
    assert "at step 1 the loss is" in (said := capsys.readouterr().err)
    assert "the loss scale is now 8.38861e+06" in said
    loop.run([])
    found = loop.position.scaling
    assert found.value == 2.0 ** (24 - found.left_out)
    assert 4 <= found.left_out <= 12
    assert loop.position.watch.returns == []
    assert loop.position.validation_loss is not None
    assert loop.position.validation_loss < 0.3 * figures.loss
    told = [json.loads(line) for line in (tmp_path / "high/history.jsonl").read_text().splitlines()]
    steps = [line for line in told if "loss" in line]
    assert [line["step"] for line in steps] == list(range(2, 61))  # the first was taken by hand
    assert sum(line["gradient_norm"] == 0.0 for line in steps) == found.left_out - 1
    assert steps[-1]["loss_scale"] == found.value
    assert "left out, since the gradients overflowed" in next(gone_on({"loss_scale": {"value": 4.0, "left_out": 3}}))


@pytest.mark.parametrize("stop", [4, 20])
@pytest.mark.parametrize("way", ["fp16", "bits"])
def test_stopped_and_gone_on_it_is_the_same_run(tmp_path: Path, way: str, stop: int):
    """In fp16 also while the scale still falls."""
    settings: dict[str, Any] = {"optimizer": {"adamw": {"bits": 8}}} if way == "bits" else {"runtime": choose_runtime("fp16", 1)}
    prepare: Callable[[Loop], Loop] = far_too_high if way == "fp16" else lambda loop: loop
    whole = prepare(make_loop(tmp_path / "whole", "24 steps", **settings))
    whole.run([])
    cut = prepare(make_loop(tmp_path / "cut", "24 steps", **settings))
    with pytest.raises(Interrupted):
        cut.run([StopAt(stop, signal.SIGINT)])
    again = make_loop(tmp_path / "cut", "24 steps", **settings)
    assert again.position.step == stop
    again.run([])
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert whole.position.scaling == again.position.scaling
    assert bool(whole.position.scaling.left_out) == (way == "fp16")


class Quiet(torch.nn.Module):
    """A net whose loss is so small that its gradients are below what fp16 tells from 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def loss(self, batch: Batch) -> torch.Tensor:
        return 1e-7 * (self.layers(batch.inputs["x"])[:, 0].float() - batch.targets["y"]).square().mean()

    def terms(self, batch: Batch) -> int:
        return batch.size


@pytest.mark.parametrize("parts", [1, 4])
def test_a_scale_saves_gradients_that_would_be_nothing(parts: int):
    """And the gradients, and the squared norm of a part's, are those of the loss itself."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    batch, settings = Batch({"x": x}, {"y": x.sum(1)}), Train(accumulate=parts)
    norms, squares = {}, {}
    for precision, scale in (("float32", 1.0), ("fp16", 1.0), ("fp16", 65536.0)):
        net = Quiet()
        found = Gradients(net, lambda m, b: m.loss(b), choose_runtime(precision, 1), settings)(batch, scale)
        norms[precision, scale] = torch.stack([p.grad.norm() for p in net.parameters()])
        squares[precision, scale] = found.square
    exact = norms["float32", 1.0]
    assert (norms["fp16", 1.0] < 0.5 * exact).any()
    torch.testing.assert_close(norms["fp16", 65536.0], exact, rtol=0.01, atol=0)
    if parts > 1:
        assert squares["fp16", 65536.0] == pytest.approx(squares["float32", 1.0], rel=0.02)


def test_workers_give_what_as_many_parts_give_in_fp16_too(tmp_path: Path):
    runtime = choose_runtime("fp16", 1)
    together, seen = run(tmp_path / "together", budget="4 steps", batches=Uneven(), runtime=replace(runtime, workers=2))
    apart, seen_apart = run(tmp_path / "apart", budget="4 steps", batches=Uneven(), runtime=runtime, accumulate=2)
    assert [s.gradient_norm for s in seen.steps] == [s.gradient_norm for s in seen_apart.steps]
    for ours, theirs in zip(together.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_shares_of_a_large_batch_do_not_vanish_in_the_scores_gradient():
    """Those of a million tokens: a millionth of a probability is hardly told from 0 in fp16, and the loss is scaled only later."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=draw).requires_grad_() for shape in ((4096, 16), (500, 16)))
    targets, shares = torch.randint(0, 500, (4096,), generator=draw), torch.full((4096,), 1e-6)
    exact = torch.autograd.grad(cross_entropy(x, weight, None, targets, shares), (x, weight))
    with torch.autocast("cpu", torch.float16):
        loss = cross_entropy(x, weight, None, targets, shares)
    found = torch.autograd.grad(loss * 65536.0, (x, weight))
    for ours, theirs in zip(found, exact, strict=True):
        assert float((ours / 65536.0 - theirs).norm() / theirs.norm()) < 2e-3


def test_what_no_scale_cures_is_trouble(tmp_path: Path):
    """Gradients that are infinite at any scale: it falls to 1, and then the watch gives up with its cure."""
    loop = make_loop(tmp_path, "60 steps", runtime=choose_runtime("fp16", 1))
    loop.model.embedding.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(WorkError, match="training diverges") as caught:
        loop.run([])
    assert "lower train.learning_rate" in caught.value.cure
    assert loop.position.scaling.value == 1.0


def test_a_batch_that_holds_infinities_is_no_overflow(tmp_path: Path):
    loop = make_loop(tmp_path, runtime=choose_runtime("fp16", 1))
    batch = Batch({"x": torch.tensor([1.0, torch.inf])}, {})
    with pytest.raises(Diverged, match="holds infinities") as caught:
        loop._leave_out(batch, 1.0, torch.nan)
    assert caught.value.data
    with pytest.raises(Diverged):
        loop._leave_out(Batch({"x": torch.ones(2)}, {}), torch.inf, torch.nan)  # the loss itself: no scale helps
    assert loop.position.scaling == LossScale()


def test_a_range_test_goes_on_over_overflows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(range_test, "LossScale", lambda: LossScale(2.0**20))
    found = {}
    for precision in ("float32", "fp16"):
        found[precision] = range_test.range_test(
            make_model(SHAPE, 0), OBJECTIVES["next_token"], lambda step: Counting().batch_at(step, 4), Train(), 0.01,
            choose_runtime(precision, 1), 0,
        )
    assert found["float32"].rate is not None
    assert found["fp16"].rate == pytest.approx(found["float32"].rate, rel=0.5)
    assert len(found["fp16"].points) > 40


def test_the_scale_is_doubled_after_long_calm():
    scale = LossScale()
    for _ in range(1999):
        scale.went_well()
    assert (scale.value, scale.calm) == (65536.0, 1999)
    scale.went_well()
    assert (scale.value, scale.calm) == (131072.0, 0)
    assert scale.overflowed()
    assert (scale.value, scale.left_out) == (65536.0, 1)


@pytest.mark.parametrize(
    ("capability", "bf16", "chosen", "why"),
    [
        ((9, 0), True, "bf16", "cuda has native bf16"),
        ((7, 5), False, "fp16", "cuda has no native bf16 but fp16, with a loss scale"),
        ((6, 1), False, "float32", "cuda has no native bf16"),
    ],
)
def test_a_gpu_computes_in_the_best_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool, chosen: str, why: str
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert choose_precision("auto", GPU) == (chosen, why)
    assert choose_precision("float32", GPU) == ("float32", "given")


def test_a_slow_choice_is_called_that():
    assert choose_precision("fp16", CPU) == ("fp16", "given; cpu has no native fp16, so float32 would be faster")
