"""The loop: it learns, its parts add up, it stops when it should, and it says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import SHAPE
from treadle.core.batch import IGNORE, Batch
from treadle.core.errors import Interrupted, WorkError
from treadle.core.runtime import Runtime, choose_runtime
from treadle.data.columns import Column, Numbers
from treadle.data.loader import Examples
from treadle.data.table import Table
from treadle.model.model import make_model
from treadle.spec.train import Train
from treadle.spec.units import Budget
from treadle.train.checkpoint import Position, load_checkpoint
from treadle.train.hooks import Step
from treadle.train.loop import Horizon, Loop, mean_loss
from treadle.train.objectives import OBJECTIVES


class Counting(Examples):
    """Rows that count upwards from a start that follows from the row's number: learnable, and a pure function of the step."""

    context = 16

    def rows(self, numbers: Numbers) -> Batch:
        return self.batch_at(int(numbers[0]) // len(numbers), len(numbers))

    def batch_at(self, step: int, batch: int) -> Batch:
        starts = np.random.default_rng(step).integers(0, 200, batch)
        rows = torch.from_numpy(starts[:, None] + np.arange(17)) % 300
        return Batch({"text": rows[:, :-1]}, {"next": rows[:, 1:]})


class Seen:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.validations: list[tuple[int, float]] = []

    def on_step(self, figures: Step) -> None:
        self.steps.append(figures)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.validations.append((figures.step, loss))


def make_loop(
    folder: Path, budget: str | Horizon = "20 steps", batches: object = None, rate: float = 0.01, runtime: Runtime | None = None,
    exact: bool = False, **settings: object,
) -> Loop:
    folder.mkdir(parents=True, exist_ok=True)
    given = Train.model_validate({"budget": "20 steps", "checkpoint_every": "1 h", **settings})
    horizon = budget if isinstance(budget, Horizon) else Horizon(int(budget.split()[0]), None)
    runtime = runtime or choose_runtime("float32", 1)
    source = batches or Counting()
    model = make_model(SHAPE, 0)
    model = model.double() if exact else model
    loop = Loop(
        model, OBJECTIVES["next_token"], source, lambda m: mean_loss(m, source, 4, 8, runtime), horizon, given, 8, rate, runtime,
        folder,
    )
    loop.resume()
    return loop


def run(folder: Path, **kind: object) -> tuple[Loop, Seen]:
    loop, seen = make_loop(folder, **kind), Seen()
    loop.run([seen])
    return loop, seen


def test_it_learns_what_there_is_to_learn(tmp_path: Path):
    _, seen = run(tmp_path, budget="150 steps")
    assert seen.steps[0].loss == pytest.approx(np.log(300), abs=0.8)
    assert seen.steps[-1].loss < 1.0
    assert seen.validations[-1][1] < 1.0
    assert [step for step, _ in seen.validations] == list(range(15, 151, 15))


def test_a_step_is_that_of_the_plain_recipe(tmp_path: Path):
    """Three steps of the loop against three steps written out with torch alone, in float64."""
    loop, _ = run(tmp_path, budget="3 steps", warmup=0.0, clip=0.5, exact=True)
    model = make_model(SHAPE, 0).double()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - (step + 0.5) / 3)
        batch = Counting().batch_at(step, 8)
        logits = model.logits(batch.inputs["text"])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets["next"].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(loop.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("more", [{}, {"l1": 1e-3}, {"optimizer": "muon", "average": "ema"}])
def test_workers_give_what_as_many_parts_give_bit_for_bit(tmp_path: Path, parts: int, more: dict[str, object]):
    runtime = replace(choose_runtime("float32", 1), workers=2)
    together, seen = run(tmp_path / "together", budget="6 steps", batches=Uneven(), runtime=runtime, accumulate=parts, **more)
    apart, seen_apart = run(tmp_path / "apart", budget="6 steps", batches=Uneven(), accumulate=2 * parts, **more)
    assert [s.gradient_norm for s in seen.steps] == [s.gradient_norm for s in seen_apart.steps]
    assert [s.loss for s in seen.steps] == [s.loss for s in seen_apart.steps]
    assert seen.validations == seen_apart.validations
    for ours, theirs in zip(together.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_fails_in_a_worker_is_raised(tmp_path: Path):
    class Poisoned(Counting):
        def batch_at(self, step: int, batch: int) -> Batch:
            whole = super().batch_at(step, batch)
            whole.inputs["text"][-1] = 10**6  # in the second half
            return whole

    loop = make_loop(tmp_path, batches=Poisoned(), runtime=replace(choose_runtime("float32", 1), workers=2))
    with pytest.raises(IndexError):
        loop.run([])
    loop.close()


class Uneven(Counting):
    """Rows of which some carry few targets, so that parts of a batch weigh differently."""

    def batch_at(self, step: int, batch: int) -> Batch:
        whole = super().batch_at(step, batch)
        targets = whole.targets["next"].clone()
        targets[: batch // 2, 3:] = IGNORE
        return Batch(whole.inputs, {"next": targets})


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_changes_no_result(tmp_path: Path, parts: int):
    whole, seen = run(tmp_path / "whole", budget="4 steps", batches=Uneven())
    split, seen_split = run(tmp_path / "split", budget="4 steps", batches=Uneven(), accumulate=parts)
    for one, two in zip(seen.steps, seen_split.steps, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-5)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)
    for ours, theirs in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("schedule", "cosine"), ("warmup", 0.5), ("final_rate", 0.5), ("weight_decay", 0.0), ("optimizer", "sgd"),
        ("optimizer", {"adamw": {"betas": [0.5, 0.5]}}), ("average", "ema"), ("clip", 0.01),
    ],
)
def test_every_setting_changes_the_weights(tmp_path: Path, change: str, value: object):
    plain, _ = run(tmp_path / "plain", budget="4 steps")
    other, _ = run(tmp_path / "other", budget="4 steps", **{change: value})
    assert any(not torch.equal(a, b) for a, b in zip(plain.model.parameters(), other.model.parameters(), strict=True))


def test_the_objectives_weigh_rows_and_tokens():
    model, batch = make_model(SHAPE, 0), Uneven().batch_at(0, 4)
    losses = torch.nn.functional.cross_entropy(
        model.logits(batch.inputs["text"]).transpose(1, 2), batch.targets["next"], ignore_index=IGNORE, reduction="none"
    )
    counts = (batch.targets["next"] != IGNORE).sum(1)
    assert OBJECTIVES["next_token"](model, batch).item() == pytest.approx((losses.sum() / counts.sum()).item(), rel=1e-5)
    per_row = OBJECTIVES["next_token_per_row"](model, batch)
    assert per_row.item() == pytest.approx((losses.sum(1) / counts).mean().item(), rel=1e-5)


@given(st.integers(1, 10**7), st.integers(1, 5000), st.integers(1, 10**7))
def test_budgets_in_every_unit_agree(steps: int, per_step: int, epoch: int):
    assert Horizon.of(Budget(steps, "steps"), per_step, epoch).steps == steps
    assert Horizon.of(Budget(steps * per_step, "tokens"), per_step, epoch).steps == steps
    epochs = Horizon.of(Budget(2.5, "epochs"), per_step, epoch).steps
    assert epochs is not None
    assert (epochs - 1) * per_step < 2.5 * epoch + per_step * 1e-6
    assert Horizon.of(Budget(60, "seconds"), per_step, epoch).seconds == 60


def test_a_wall_time_budget_ends_on_time_with_the_rate_run_down(tmp_path: Path):
    _, seen = run(tmp_path, budget=Horizon(None, 1.5), warmup=0.1)
    assert 1.5 <= seen.steps[-1].seconds < 3.0
    assert seen.steps[-1].learning_rate < 0.25 * max(step.learning_rate for step in seen.steps)
    assert len(seen.validations) >= 2


def test_a_loss_that_is_not_a_number_stops_with_the_cure(tmp_path: Path):
    with pytest.raises(WorkError, match="gradient's norm") as caught:
        run(tmp_path, budget="300 steps", rate=1e20, clip=0.0)
    assert "lower train.learning_rate" in caught.value.cure


def _history(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key in ("step", "loss", "validation_loss", "learning_rate")} for line in lines]


class StopAt:
    """Press Ctrl-C at a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_step(self, figures: Step) -> None:
        if figures.step == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        pass


class Waiting:
    """Lets each checkpoint be written before the next may be due, so that there is one of every step."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def on_step(self, figures: Step) -> None:
        self.loop.checkpoints.wait()

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_going_on_is_exact(tmp_path: Path, number: int):
    before = signal.getsignal(signal.SIGINT)
    whole, _ = run(tmp_path / "whole", budget="12 steps")
    loop = make_loop(tmp_path / "cut", budget="12 steps")
    with pytest.raises(Interrupted, match="step 5"):
        loop.run([StopAt(5, number)])
    again, seen = run(tmp_path / "cut", budget="12 steps")
    assert seen.steps[0].step == 6
    assert _history(tmp_path / "cut") == _history(tmp_path / "whole")
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    whole, _ = run(tmp_path / "whole", budget="9 steps")
    loop = make_loop(tmp_path / "cut", budget="9 steps", checkpoint_every="1 ms")
    with pytest.raises(Interrupted):
        loop.run([StopAt(6, signal.SIGINT), Waiting(loop)])
    folders = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-00000005", "step-00000006"]
    weights = folders[-1] / "weights.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    else:
        (folders[-1] / "state.json").write_text("{")
    again, seen = run(tmp_path / "cut", budget="9 steps")
    assert "step-00000006 is damaged" in capsys.readouterr().err
    assert seen.steps[0].step == 6
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_whole_checkpoint_means_from_the_start(tmp_path: Path):
    loop, _ = run(tmp_path, budget="3 steps")
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    begin = load_checkpoint(tmp_path, loop.model, [loop.optimizer])
    assert begin == Position()
    for ours, fresh in zip(loop.model.parameters(), make_model(SHAPE, 0).parameters(), strict=True):
        assert torch.equal(ours, fresh)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_dropout_goes_on_exactly_too(tmp_path: Path):
    """The masks come from torch's random state, which a checkpoint holds."""

    def loop_in(folder: Path, budget: str) -> Loop:
        torch.manual_seed(3)
        loop = make_loop(folder, budget=budget)
        for layer in loop.model.trunk.layers:
            layer.dropout = 0.3
        return loop

    whole = loop_in(tmp_path / "whole", "10 steps")
    whole.run([])
    cut = loop_in(tmp_path / "cut", "10 steps")
    with pytest.raises(Interrupted):
        cut.run([StopAt(4, signal.SIGINT)])
    torch.manual_seed(99)
    again = loop_in(tmp_path / "cut", "10 steps")
    again.run([])
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_full_disk_says_so_and_keeps_the_last_checkpoint(tmp_path: Path):
    """On a real file system of a few hundred kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        loop = make_loop(disk, budget="6 steps", checkpoint_every="1 ms")
        with pytest.raises(WorkError, match="is full") as caught:
            loop.run([])
        assert "free some space" in caught.value.cure
        kept = load_checkpoint(disk, loop.model, [loop.optimizer])
        assert kept is not None
        assert isinstance(kept, Position)
        assert not list((disk / "checkpoints").glob("draft-*"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_bf16_follows_float32_closely_and_is_not_it(tmp_path: Path):
    runtime = choose_runtime("bf16", 1)
    assert "given" in runtime.reason
    _, seen = run(tmp_path / "bf16", budget="20 steps", runtime=runtime)
    _, plain = run(tmp_path / "float32", budget="20 steps")
    for ours, theirs in zip(seen.steps, plain.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02)
    assert [s.loss for s in seen.steps] != [s.loss for s in plain.steps]


@pytest.mark.parametrize("keep", [2, 4])
def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path, keep: int):
    loop = make_loop(tmp_path, budget="8 steps", checkpoint_every="1 ms", keep_checkpoints=keep)
    loop.run([Waiting(loop)])
    assert len(list((tmp_path / "checkpoints").iterdir())) == keep


def test_validation_can_be_left_to_the_end(tmp_path: Path):
    _, seen = run(tmp_path, budget="10 steps", validate_every=0)
    assert [step for step, _ in seen.validations] == [10]


def test_held_out_records_are_read_once_each() -> None:
    """Ten records in batches of four: the last batch is short, none is read twice."""
    column = Column(np.arange(10, dtype=np.float32))
    table = Table("validation", {"x": column}, {"y": column}, 0, shuffle=False)
    seen: list[float] = []

    class Noting(torch.nn.Module):
        def loss(self, batch: Batch) -> torch.Tensor:
            seen.extend(batch.inputs["x"].tolist())
            return batch.targets["y"].mean()

        def terms(self, batch: Batch) -> int:
            return batch.size

    assert mean_loss(Noting(), table, 4, table.records, choose_runtime("float32", 1)) == pytest.approx(4.5)
    assert seen == list(range(10))
