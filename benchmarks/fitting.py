"""Samples per second of fitting one network to arrays: by Treadle's loop, by Keras 3's ``fit``, and by a plain PyTorch loop."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # the same products for all

import numpy as np
import numpy.typing as npt
import torch
from side_by_side import alternate, heading, table

from treadle.core.layout import Layout
from treadle.core.machine import peak_memory
from treadle.core.runtime import Runtime, choose_runtime
from treadle.data.columns import Column
from treadle.data.table import Table
from treadle.model.flops import forward_flops
from treadle.model.network import make_network
from treadle.spec.model import Model
from treadle.spec.train import Train
from treadle.train.hooks import Step, TensorBoardHook
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

Array = npt.NDArray[Any]
WARM = 0.2
"""Share of the steps that is not counted."""


def rate(stamps: Sequence[float], batch: int) -> float:
    """Samples/s from the ends of steps, the first of them not counted."""
    first = int(len(stamps) * WARM)
    return batch * (len(stamps) - 1 - first) / (stamps[-1] - stamps[first])


def by_treadle(
    model: Mapping[str, Any], layouts: Mapping[str, Mapping[str, Layout]], inputs: Mapping[str, Array],
    targets: Mapping[str, Array], batch: int, steps: int, runtime: Runtime,
) -> list[float]:
    """Ends of steps of the loop as ``treadle run`` runs it, with its precision, history, TensorBoard, clipping and decay."""
    stamps: list[float] = []

    class Watch:
        def on_step(self, figures: Step) -> None:
            stamps.append(time.perf_counter())

        def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
            pass

    data = [{name: Column(values) for name, values in part.items()} for part in (inputs, targets)]
    table, network = Table("train", *data, 0), make_network(Model.model_validate(model), layouts, 0)
    step = 3.0 * forward_flops(partial(network.eval().loss, table.batch_at(0, batch)))
    runtime = choose_runtime("auto", runtime.threads, step)
    print(f"{step / 1e6:.0f} MFLOP a step: {runtime.precision}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        loop = Loop(
            network, OBJECTIVES["answers"], table,
            lambda model: 0.0, Horizon(steps, None), Train(validate_every=0.0, checkpoint_every="1 h"), batch, 1e-3, runtime,
            Path(name), "records",
        )
        loop.resume()
        board = TensorBoardHook(Path(name) / "tensorboard", 0)
        loop.run([board, Watch()])
        board.close()
    return stamps


def by_keras(model: Any, inputs: Any, targets: Array, batch: int, steps: int, loss: str) -> list[float]:
    """Ends of steps of ``model.fit``, compiled with Adam; where the samples run out, it starts over."""
    import keras

    stamps: list[float] = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            stamps.append(time.perf_counter())
            self.model.stop_training = len(stamps) >= steps

    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    epochs = -(-steps * batch // len(targets))
    model.fit(inputs, targets, batch_size=batch, epochs=epochs, verbose=0, callbacks=[Watch()])
    return stamps[:steps]


def by_loop(
    network: torch.nn.Module, data: torch.utils.data.Dataset[Any], loss: Callable[..., torch.Tensor], batch: int, steps: int
) -> list[float]:
    """Ends of steps of the loop that every tutorial shows: a shuffling ``DataLoader``, Adam, no more."""
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    stamps: list[float] = []
    while len(stamps) < steps:
        for *inputs, wanted in loader:
            optimizer.zero_grad()
            loss(network(*inputs), wanted).backward()
            optimizer.step()
            stamps.append(time.perf_counter())
    return stamps[:steps]


def compare(
    script: str, doc: str, tasks: Mapping[str, tuple[int, Mapping[str, Callable[[int, Runtime], list[float]]]]], steps: int
) -> None:
    """The command line of a benchmark: ``tasks`` by name, each with its batch and its systems, of which the first is ours."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=steps, help="steps per measurement; a fifth of them is not counted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", choices=list(tasks), help="one of them alone")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.system:
        torch.manual_seed(0)
        batch, systems = tasks[given.task]
        stamps = systems[given.system](given.steps, choose_runtime("float32", given.threads))
        print(json.dumps({"speed": rate(stamps, batch), "peak_memory": peak_memory()}))
        return
    for name in [given.task] if given.task else tasks:
        batch, systems = tasks[name]
        words = ["--steps", str(given.steps), "--threads", str(given.threads), "--task", name]
        results = alternate(script, {s: [*words, "--system", s] for s in systems}, given.rounds, given.threads, "samples/s")
        what = f"Training, {name}, batch {batch}, the others in float32, {given.threads} thread{'s' * (given.threads > 1)}."
        packages = ["torch", *["keras"] * any("Keras" in system for system in systems)]
        print(heading(what, {package: version(package) for package in packages}))
        print(table(results, "samples/s"), "\n")


def integers(high: int, *shape: int) -> Array:
    """Whole numbers below ``high``, always the same ones."""
    return np.random.default_rng(0).integers(0, high, shape)
