"""Parts of a batch by the memory that there is, and the memory of networks beside what a process held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.network import make_network
from treadle.plan.counting import PROGRAM
from treadle.plan.parts import fewest_parts, network_needs, swift_parts
from treadle.spec.model import Model


@pytest.mark.parametrize(
    ("limit", "parts"), [(1000, 1), (120, 1), (119, 2), (70, 2), (69, 3), (30, 6), (29, 12), (20, 12), (19, None)]
)
def test_the_fewest_equal_parts_that_fit(limit: int, parts: int | None):
    assert fewest_parts(12, limit, lambda rows: 10 + rows * 10 - (rows == 12) * 10) == parts
    assert fewest_parts(12, limit, lambda rows: 10 + rows * 10 - (rows == 12) * 10, least=4) == (parts and max(parts, 4))


@pytest.mark.parametrize(
    ("batch", "step", "workers", "parts"),
    [(16, 2.4e12, 2, 2), (16, 2.4e12, 1, 4), (16, 1.9e12, 2, 1), (16, 1e15, 2, 8), (15, 1e15, 2, 1), (15, 1e15, 1, 15),
     (12, 3.5e12, 2, 3)],
)
def test_parts_that_cost_no_time_hold_enough_for_every_worker(batch: int, step: float, workers: int, parts: int):
    assert swift_parts(batch, step, workers) == parts


def network(width: int) -> tuple[torch.nn.Module, Batch]:
    model = Model.model_validate({
        "inputs": {"a": "number", "b": "number"}, "trunk": {"mlp": {"width": width, "depth": 2, "dropout": 0.0}},
        "heads": {"y": "category"},
    })
    kind = Layout("category", vocabulary=2, options={"smoothing": 0.0, "weight": 1.0})
    made = make_network(model, {"inputs": {"a": Layout("number"), "b": Layout("number")}, "heads": {"y": kind}}, 0)
    rows = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    return made, Batch({"a": rows[:, 0], "b": rows[:, 1]}, {"y": (rows[:, 0] > 0).long()})


def test_memory_of_a_network_grows_with_its_rows_and_weights():
    model, batch = network(64)
    needs = network_needs(model, batch, 2)
    weights = sum(p.numel() for p in model.parameters())
    assert needs(0) == PROGRAM + 4 * 4 * weights
    each = (needs(1000) - needs(0)) / 1000
    # Both layers' outputs must be kept for each row, and as many pass by; and not much more than a few of each.
    assert 4 * 4 * 64 <= each <= 4 * 16 * 64
    lean = network_needs(model, batch, 0)
    assert needs(10) - lean(10) == 2 * 4 * weights


def test_counting_leaves_a_network_as_it_was():
    model, batch = network(16)
    before, state = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    network_needs(model, batch, 2)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


PEAK = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_parts import network
from treadle.core.machine import peak_memory
from treadle.core.runtime import choose_runtime
from treadle.optim.make import make_optimizer
from treadle.plan.parts import network_needs
from treadle.spec.train import Train
choose_runtime("float32", 1)
model, batch = network(512)
rows = int(sys.argv[1])
predicted = network_needs(model, batch, 2)(rows)
many = batch.take(torch.arange(rows) % 8)
optimizer = make_optimizer(model.named_parameters(), Train(), 1e-3)
for _ in range(3):
    model.loss(many).backward()
    optimizer.update(1.0)
print(predicted, peak_memory())
"""


@pytest.mark.parametrize("rows", [64, 40_000])
def test_peak_memory_of_a_real_step_is_within_what_was_counted(rows: int):
    command = [sys.executable, "-c", PEAK, str(rows), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    predicted, measured = map(int, done.stdout.split())
    assert measured <= 1.12 * predicted
    assert predicted <= 2.2 * measured
