"""Counts by arithmetic against what torch holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from treadle.core.batch import Batch
from treadle.model.layers import recompute
from treadle.model.layers.recompute import noted
from treadle.model.model import make_model
from treadle.plan import counting
from treadle.spec.load import read
from treadle.spec.project import ProjectSpec
from treadle.spec.shape import Shape
from treadle.spec.units import Budget

SHAPES = [
    Shape(vocabulary=512, context=64, depth=2, width=128, heads=4, kv_heads=2, head_dim=32, hidden=352),
    Shape(vocabulary=300, context=32, depth=1, width=48, heads=3, kv_heads=1, head_dim=16, hidden=128, qk_norm=False),
    Shape(vocabulary=1024, context=48, depth=3, width=64, heads=2, kv_heads=2, head_dim=32, hidden=160, tie_embeddings=False),
]


def spec(**changes: str) -> ProjectSpec:
    text = "name: t\ndata: {sources: [{files: '*.py', licence: MIT}]}\nmodel: {trunk: {transformer: {depth: 4}}}\n"
    found = read(text, "treadle.yaml", [f"{key}={value}" for key, value in changes.items()])
    assert isinstance(found, ProjectSpec), found
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape: Shape) -> None:
    assert shape.parameters == sum(p.numel() for p in make_model(shape, seed=0).parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("least", [0, 2**40])
def test_activations_are_what_autograd_saves(
    shape: Shape, dropout: float, least: int, monkeypatch: pytest.MonkeyPatch, no_kernels: None
) -> None:
    for module in (counting, recompute):
        monkeypatch.setattr(module, "REMADE", least)
    model = make_model(shape, seed=0, dropout=dropout).train()
    fixed = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> None:
        if tensor.untyped_storage().data_ptr() not in fixed and tensor.is_floating_point():
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    tokens = torch.randint(0, shape.vocabulary, (2, shape.context))
    with noted(keep):
        model.loss(Batch({"text": tokens}, {"next": tokens}, places={"text": torch.arange(shape.context).repeat(2, 1)}))
    found = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    floats = tokens.numel() * counting.activation_floats(shape, dropout, positions=tokens.numel())
    expected = 4 * (floats + shape.vocabulary * shape.width)
    assert found == pytest.approx(expected, rel=0.001 if not dropout else 0.03)


MEASURE = """
import sys, torch
from treadle.core.batch import Batch
from treadle.core.machine import peak_memory
from treadle.model.model import make_model
from treadle.spec.shape import Shape
depth, rows, vocabulary, parts = map(int, sys.argv[1:])
shape = Shape(vocabulary=vocabulary, context=256, depth=depth, width=256, heads=4, kv_heads=2, head_dim=64, hidden=704)
torch.manual_seed(0)
model = make_model(shape, 0)
optimiser = torch.optim.AdamW(model.parameters(), fused=True)
for _ in range(3):
    for _ in range(parts):
        tokens = torch.randint(0, vocabulary, (rows, 256))
        model.loss(Batch({"text": tokens}, {"next": tokens}, places={"text": torch.arange(256).repeat(rows, 1)})).backward()
    optimiser.step()
    tensors = [tensor for state in optimiser.state.values() for tensor in state.values()]
    checkpoint = [tensor.detach().clone() for tensor in (*tensors, *model.parameters())]
    optimiser.zero_grad(set_to_none=True)
print(peak_memory())
"""


@pytest.mark.parametrize(("depth", "rows", "vocabulary", "parts"), [(1, 1, 512, 1), (6, 4, 4096, 1), (2, 16, 8192, 2)])
def test_peak_memory_of_a_real_training(depth: int, rows: int, vocabulary: int, parts: int) -> None:
    """Within 20% above and 12% below what the process held; too high is the safe side."""
    arguments = [str(value) for value in (depth, rows, vocabulary, parts)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, timeout=120)
    shape = Shape(vocabulary=vocabulary, context=256, depth=depth, width=256, heads=4, kv_heads=2, head_dim=64, hidden=704)
    predicted = counting.train_memory(shape, rows).total
    print(f"predicted {predicted / 1e6:.0f} MB, measured {int(done.stdout) / 1e6:.0f} MB")
    assert 0.88 <= predicted / int(done.stdout) <= 1.20


def test_work_of_each_kind_of_budget() -> None:
    shape = SHAPES[0]  # 64 tokens of context
    steps = counting.count_work(shape, 4, Budget(10, "steps"), 1000)
    assert steps
    assert (steps.steps, steps.tokens, steps.epochs) == (10, 2560, 2.56)
    assert steps.flops == 2560 * 3 * shape.forward_flops()
    tokens = counting.count_work(shape, 4, Budget(1000, "tokens"), 1000)
    assert tokens
    assert tokens.steps == 4  # 3.9 batches of 256 tokens
    epochs = counting.count_work(shape, 4, Budget(2, "epochs"), 1000)
    assert epochs
    assert epochs.steps == 8
    seconds = counting.count_work(shape, 4, Budget(60, "seconds"), 1000, step_seconds=0.5)
    assert seconds
    assert seconds.steps == 120
    assert counting.count_work(shape, 4, Budget(60, "seconds"), 1000) is None


def cure(given: ProjectSpec, limit: int) -> str:
    return counting.cure_for_memory(given, limit, lambda shape, rows: counting.train_memory(shape, rows).total <= limit)


def test_cure_prefers_what_changes_no_result() -> None:
    given = spec(**{"train.batch": "16"})
    shape = counting._with_depth(given, 4)
    assert shape
    halves = counting.train_memory(shape[0], 8).total
    assert cure(given, halves).startswith("set 'train.accumulate: 2'")
    one_row = counting.train_memory(shape[0], 1).total
    assert "accumulate: 16" in cure(given, one_row)
    assert "depth: 3' or less and 'train.accumulate: 16'" in cure(given, one_row - 4_000_000)
    long = spec(**{"model.inputs.text": "{tokenizer: {bpe: 65536}, context: 100000}", "train.batch": "2"})
    assert cure(long, 1_500_000_000) == "set 'context: 3125' and 'train.accumulate: 2'"
    assert "larger machine" in cure(given, 1000)


@pytest.mark.parametrize("limit_mb", [450, 600, 2000, 8000])
def test_depth_of_the_cure_fits_and_the_next_does_not(limit_mb: int) -> None:
    given = spec(**{"model.trunk.transformer.depth": "100"})
    limit = limit_mb * 10**6
    depth = int(cure(given, limit).split("depth: ")[1].split("'")[0])
    fits, larger = counting._with_depth(given, depth), counting._with_depth(given, depth + 1)
    assert fits
    assert larger
    assert counting.train_memory(fits[0], 1).total <= limit < counting.train_memory(larger[0], 1).total
