"""Training speed on pictures: Treadle's loop, Keras 3's ``fit`` and a plain PyTorch loop on the same networks and batches.

    python benchmarks/vision.py [--task digits-mlp] [--rounds 5] [--steps 1000] [--threads 1]

The networks are those of the recipes digits-mlp and objects-cnn, without changes of the pictures, on made-up pixels: bytes for
Treadle, which brings them to mean 0 itself, and ready float32 for the others. Each system runs in a process of its own, in turn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from fitting import Array, by_keras, by_loop, by_treadle, compare, integers
from torch import nn

from treadle.core.layout import Layout
from treadle.core.runtime import Runtime

RECORDS = 10_000
MLP = {
    "inputs": {"image": {"image": {"size": 28, "grey": True}}}, "trunk": {"mlp": {"width": [128]}}, "heads": {"class": "category"},
}
CNN = {
    "inputs": {"image": {"image": {"size": 32}}}, "trunk": {"conv": {"channels": [32, 64, 64], "pad": False, "dense": [64]}},
    "heads": {"class": "category"},
}


def pictures(side: int, channels: int) -> tuple[Array, Array]:
    """uint8 (N, side, side, channels), classes (N,)"""
    return integers(256, RECORDS, side, side, channels).astype(np.uint8), integers(10, RECORDS)


def ready(side: int, channels: int) -> tuple[Array, Array]:
    """The same as float32 from 0 to 1."""
    x, y = pictures(side, channels)
    return x.astype(np.float32) / 255, y


def treadle(model: Any, side: int, channels: int, batch: int, steps: int, runtime: Runtime) -> list[float]:
    x, y = pictures(side, channels)
    image = Layout("image", height=side, width=side, channels=channels, mean=(127.5,) * channels, deviation=(73.9,) * channels)
    layouts = {"inputs": {"image": image}, "heads": {"class": Layout("category", vocabulary=10)}}
    return by_treadle(model, layouts, {"image": x}, {"class": y}, batch, steps, runtime)


def textbook(side: int, channels: int) -> Any:
    """The same networks in Keras: dense layers for grey pictures, convolutions for others."""
    from keras import Sequential, layers

    if channels == 1:
        stack = [layers.Flatten(), layers.Dense(128, activation="relu")]
    else:
        stack = [
            layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu"), layers.Flatten(), layers.Dense(64, activation="relu"),
        ]
    return Sequential([layers.Input((side, side, channels)), *stack, layers.Dense(10, activation="softmax")])


def keras(side: int, channels: int, batch: int, steps: int, runtime: Runtime) -> list[float]:
    return by_keras(textbook(side, channels), *ready(side, channels), batch, steps, "sparse_categorical_crossentropy")


def loop(side: int, channels: int, batch: int, steps: int, runtime: Runtime) -> list[float]:
    if channels == 1:
        stack: list[nn.Module] = [nn.Flatten(), nn.Linear(side * side, 128), nn.ReLU(), nn.Linear(128, 10)]
    else:
        stack = [
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3),
            nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
        ]
    x, y = ready(side, channels)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y))
    return by_loop(nn.Sequential(*stack), data, nn.functional.cross_entropy, batch, steps)


def systems(model: Any, side: int, channels: int, batch: int) -> Any:
    found = {"Treadle": partial(treadle, model)} | {"Keras 3 fit": keras, "PyTorch loop": loop}
    return batch, {name: partial(work, side, channels, batch) for name, work in found.items()}


TASKS = {"digits-mlp": systems(MLP, 28, 1, 32), "objects-cnn": systems(CNN, 32, 3, 64)}

if __name__ == "__main__":
    compare(__file__, __doc__, TASKS, 1000)
