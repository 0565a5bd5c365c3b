"""Steps per second of networks so small that the loop is what counts: Treadle's loop beside a bare PyTorch loop.

    python benchmarks/toy.py [--task mlp] [--rounds 5] [--steps 3000]

A perceptron with one hidden layer of 32 units over 16 numbers, batch 32, and a transformer of one layer of 32 features, batch 4 of
32 tokens. Both loops have the same network, data and fused AdamW. The bare loop draws no batches: it takes slices of tensors in a
shuffled order, and does forward, backward and step. Treadle's is whole: it also draws its batches as it would again after an
interruption, clips gradients, follows a schedule, watches for divergence, and writes its history and TensorBoard.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitting import by_treadle, compare, integers
from torch import nn

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.core.runtime import Runtime
from treadle.data.loader import Windows
from treadle.data.shards import Document, Shard, write_shard
from treadle.model.model import make_model
from treadle.model.network import make_network
from treadle.spec.model import Model
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.train.hooks import TensorBoardHook
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

RECORDS, FEATURES = 10_000, 16
NAMES = [f"x{number}" for number in range(FEATURES)]
MLP: dict[str, Any] = {
    "inputs": dict.fromkeys(NAMES, "number"), "trunk": {"mlp": {"width": [32], "dropout": 0.0}}, "heads": {"y": "category"},
}
LAYOUTS = {
    "inputs": {name: Layout("number", mean=(0.0,), deviation=(1.0,)) for name in NAMES},
    "heads": {"y": Layout("category", vocabulary=2, options={"smoothing": 0.0, "weight": 1.0})},
}
SHAPE = Shape(vocabulary=256, context=32, depth=1, width=32, heads=2, kv_heads=1, head_dim=16, hidden=96)


def bare(model: nn.Module, batch_at: Callable[[torch.Tensor], Batch], records: int, batch: int, steps: int) -> list[float]:
    """Ends of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    stamps: list[float] = []
    model.train()
    while len(stamps) < steps:
        order = torch.randperm(records)
        for first in range(0, records - batch + 1, batch):
            optimizer.zero_grad()
            model.loss(batch_at(order[first : first + batch])).backward()  # type: ignore[operator]
            optimizer.step()
            stamps.append(time.perf_counter())
    return stamps[:steps]


def numbers() -> tuple[dict[str, Any], Any]:
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(RECORDS).astype(np.float32) for name in NAMES}, integers(2, RECORDS)


def mlp_treadle(steps: int, runtime: Runtime) -> list[float]:
    x, y = numbers()
    return by_treadle(MLP, LAYOUTS, x, {"y": y}, 32, steps, runtime)


def mlp_bare(steps: int, runtime: Runtime) -> list[float]:
    x, y = numbers()
    inputs, answers = {name: torch.from_numpy(values) for name, values in x.items()}, torch.from_numpy(y)
    model = make_network(Model.model_validate(MLP), LAYOUTS, 0)
    return bare(model, lambda rows: Batch({n: t[rows] for n, t in inputs.items()}, {"y": answers[rows]}), RECORDS, 32, steps)


def text() -> Any:
    return np.random.default_rng(0).integers(0, SHAPE.vocabulary, 400 * SHAPE.context + 1)


def lm_treadle(steps: int, runtime: Runtime) -> list[float]:
    stamps: list[float] = []

    class Watch:
        def on_step(self, figures: object) -> None:
            stamps.append(time.perf_counter())

        def on_validation(self, figures: object, loss: float, trained: float | None) -> None:
            pass

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder, "train", [Document("all", "random", text().tolist(), 0)])
        loop = Loop(
            make_model(SHAPE, 0), OBJECTIVES["next_token"], Windows(Shard(folder, "train"), SHAPE.context, 0), lambda model: 0.0,
            Horizon(steps, None), Train(validate_every=0.0, checkpoint_every="1 h"), 4, 1e-3, runtime, folder,
        )
        loop.resume()
        board = TensorBoardHook(folder / "tensorboard", 0)
        loop.run([board, Watch()])
        board.close()
    return stamps


def lm_bare(steps: int, runtime: Runtime) -> list[float]:
    tokens = torch.from_numpy(text())
    at = torch.arange(SHAPE.context)

    def batch_at(rows: torch.Tensor) -> Batch:
        places = rows[:, None] * SHAPE.context + at
        return Batch({"text": tokens[places]}, {"next": tokens[places + 1]})

    return bare(make_model(SHAPE, 0), batch_at, 400, 4, steps)


TASKS: dict[str, Any] = {
    "mlp": (32, {"Treadle": mlp_treadle, "bare PyTorch loop": mlp_bare}),
    "transformer": (4, {"Treadle": lm_treadle, "bare PyTorch loop": lm_bare}),
}

if __name__ == "__main__":
    compare(__file__, __doc__, TASKS, 3000)
