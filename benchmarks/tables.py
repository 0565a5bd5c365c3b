"""Training speed on a table: Treadle's loop, Keras 3's ``fit`` and a plain PyTorch loop on the same network and batches.

    python benchmarks/tables.py [--rounds 5] [--steps 1000] [--threads 1]

The network is like that of the recipe credit-risk: five numbers, eight categories with a learned vector each, two dense layers
of 256 with dropout, and a logit, on made-up columns. Each system runs in a process of its own, in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fitting import Array, by_keras, by_loop, by_treadle, compare, integers
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.core.runtime import Runtime
from treadle.model.inputs.fields import embedding_width

RECORDS = 30_000
NUMBERS = [f"number{i}" for i in range(5)]
NAMES = {f"name{i}": count for i, count in enumerate((9, 16, 7, 15, 6, 5, 2, 42))}
"""Category -> how many names it has, as in the census extract."""
BATCH = 256


def columns() -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Numbers (N,), categories (N,), answers (N,)"""
    draw = np.random.default_rng(0)
    numbers = {name: draw.standard_normal(RECORDS).astype(np.float32) for name in NUMBERS}
    return numbers, {name: draw.integers(0, count, RECORDS) for name, count in NAMES.items()}, integers(2, RECORDS)


def treadle(steps: int, runtime: Runtime) -> list[float]:
    numbers, names, y = columns()
    model = {
        "inputs": dict.fromkeys(numbers, "number") | dict.fromkeys(names, "category"),
        "trunk": {"mlp": {"width": 256, "depth": 2, "dropout": 0.3}}, "heads": {"answer": {"binary": {"positive": "1"}}},
    }
    layouts = {
        "inputs": {name: Layout("number", edges=(0.0, 1.0)) for name in numbers}
        | {name: Layout("category", vocabulary=count) for name, count in NAMES.items()},
        "heads": {"answer": Layout("binary")},
    }
    return by_treadle(model, layouts, numbers | names, {"answer": y.astype(np.float32)}, BATCH, steps, runtime)


def keras(steps: int, runtime: Runtime) -> list[float]:
    from keras import Model, layers

    numbers, names, y = columns()
    given = {name: layers.Input((), name=name) for name in numbers | names}
    parts = [layers.Reshape((1,))(given[name]) for name in numbers]
    parts += [layers.Embedding(count, embedding_width(count))(given[name]) for name, count in NAMES.items()]
    x = layers.Concatenate()(parts)
    for _ in range(2):
        x = layers.Dropout(0.3)(layers.Dense(256, activation="relu")(x))
    return by_keras(
        Model(given, layers.Dense(1, activation="sigmoid")(x)), numbers | names, y, BATCH, steps, "binary_crossentropy"
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(count, embedding_width(count)) for count in NAMES.values())
        width = len(NUMBERS) + sum(embedding_width(count) for count in NAMES.values())
        dense = [nn.Linear(width, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.3)]
        self.dense = nn.Sequential(*dense, nn.Linear(256, 1))

    def forward(self, numbers: Tensor, names: Tensor) -> Tensor:
        found = [embedding(names[:, i]) for i, embedding in enumerate(self.embeddings)]
        logits: Tensor = self.dense(torch.cat([numbers, *found], 1))[:, 0]
        return logits


def loop(steps: int, runtime: Runtime) -> list[float]:
    numbers, names, y = columns()
    data: Any = torch.utils.data.TensorDataset(
        torch.from_numpy(np.stack(list(numbers.values()), 1)), torch.from_numpy(np.stack(list(names.values()), 1)),
        torch.from_numpy(y.astype(np.float32)),
    )
    return by_loop(Net(), data, nn.functional.binary_cross_entropy_with_logits, BATCH, steps)


TASKS: Any = {"credit-risk": (BATCH, {"Treadle": treadle, "Keras 3 fit": keras, "PyTorch loop": loop})}

if __name__ == "__main__":
    compare(__file__, __doc__, TASKS, 1000)
