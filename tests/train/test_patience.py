"""Patience over an interruption: the weights that it keeps are those of an undisturbed run; and l1 beside steps by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tiny_records import SPEC, write_records_project
from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.core.runtime import choose_runtime
from treadle.model.network import Network, make_network
from treadle.spec.model import Model
from treadle.spec.train import Train
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

LONG = SPEC.replace("budget: 12 epochs", "budget: 400 epochs, patience: 6, validate_every: 0.2%, checkpoint_every: 1 ms").replace(
    "heads: {rain: binary, millimetres: number}", "heads: {rain: binary}"
).replace("rain.accuracy", "accuracy")


TRAIN = """
import sys
from pathlib import Path
from treadle.core.project import load_project
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Store
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

project = load_project(Path(sys.argv[1]))
store = Store(project.store)
dataset = make_dataset(project, store, make_corpus(project, store))
train_model(project, store, dataset, first_round(project, dataset))
"""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(folder)]


def made(folder: Path) -> tuple[bytes, dict[str, object], list[object]]:
    (model,) = (folder / ".treadle" / "artifacts" / "model").iterdir()
    counts = json.loads((model / "manifest.json").read_text())["counts"]
    lines = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
    course = [(line["step"], line.get("loss"), line.get("validation_loss"), line.get("train_loss_eval")) for line in lines]
    return (model / "model.safetensors").read_bytes(), counts, list(course)


def test_killed_after_its_best_it_keeps_the_same_weights(tmp_path: Path):
    """SIGKILL between the best validation and the end of patience, so that the best weights and their count must come back."""
    write_records_project(tmp_path / "whole", text=LONG, count=160)
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, timeout=300)
    weights, counts, course = made(tmp_path / "whole")
    assert counts["stopped_early"]
    seen = [row for row in course if row[2] is not None]  # type: ignore[index]
    best = min(seen, key=lambda row: row[2])  # type: ignore[index, no-any-return]
    assert len(seen) - seen.index(best) == 7  # six that were no better, and then no more

    write_records_project(tmp_path / "cut", text=LONG, count=160)
    process = subprocess.Popen(command(tmp_path / "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        steps = sorted((tmp_path / "cut" / ".treadle" / "work").glob("*/checkpoints/step-*"))
        if steps and int(steps[-1].name[5:]) > best[0] + 2:  # type: ignore[index]
            break
        time.sleep(0.0005)
    assert process.poll() is None, process.communicate()[1].decode()
    process.kill()
    process.wait()
    finished = subprocess.run(command(tmp_path / "cut"), check=True, capture_output=True, timeout=300)
    assert b"going on from the checkpoint" in finished.stderr
    again, counts_again, course_again = made(tmp_path / "cut")
    assert course_again == course
    assert again == weights
    assert counts_again["best_validation_loss"] == counts["best_validation_loss"]


class Same:
    def batch_at(self, step: int, batch: int) -> Batch:
        """Two numbers, of which the first is the smaller in half of the rows."""
        rows = torch.randn(batch, 2, generator=torch.Generator().manual_seed(step))
        return Batch({"a": rows[:, 0], "b": rows[:, 1]}, {"y": (rows[:, 0] < rows[:, 1]).long()})


def fresh() -> Network:
    model = Model.model_validate({
        "inputs": {"a": "number", "b": "number"}, "trunk": {"mlp": {"width": 8, "norm": "layer"}}, "heads": {"y": "category"},
    })
    kind = Layout("category", vocabulary=2, options={"smoothing": 0.0, "weight": 1.0})
    return make_network(model, {"inputs": {"a": Layout("number"), "b": Layout("number")}, "heads": {"y": kind}}, 0)


@pytest.mark.parametrize("parts", [1, 2])
def test_l1_beside_steps_by_hand(tmp_path: Path, parts: int):
    network = fresh()
    settings = Train.model_validate({"l1": 0.01, "warmup": 0.0, "clip": 0, "accumulate": parts, "checkpoint_every": "1 h"})
    loop = Loop(
        network, OBJECTIVES["answers"], Same(), lambda model: 0.0, Horizon(3, None), settings, 8, 0.01,
        choose_runtime("float32", 1), tmp_path,
    )
    loop.resume()
    loop.run([])
    loop.history.close()
    by_hand = fresh()
    matrices = [p for p in by_hand.parameters() if p.dim() >= 2]
    others = [p for p in by_hand.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - (step + 0.5) / 3)
        optimizer.zero_grad()
        loss = by_hand.loss(Same().batch_at(step, 8))
        loss.backward()
        for matrix in matrices:
            assert matrix.grad is not None
            matrix.grad += 0.01 * matrix.detach().sign()  # the derivative of an absolute value
        optimizer.step()
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(fresh().loss(Same().batch_at(0, 8)).item(), rel=1e-5)  # the penalty is not reported
