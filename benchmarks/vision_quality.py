"""Time to an accuracy: how long Treadle and Keras 3's ``fit`` train on real pictures until they are right often enough.

    TREADLE_DATA=... python benchmarks/vision_quality.py [--task digits] [--seeds 3] [--threads 2]

Keras fits the textbook's own network with Adam, as the textbooks do: on MNIST a layer of 128 in batches of 32, on the cut of
CIFAR-10 three convolutions in batches of 64. Treadle trains a recipe's project, with the settings that ``TASKS`` puts over it. Both
read the same training pictures from memory and are measured on all test pictures, Keras after each epoch, Treadle 20 times; the
clock stands still meanwhile, and runs for all else that training does. Where Keras never reaches the mark, its best figure is the
mark instead. Each run is a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from fitting import Array
from side_by_side import heading, measure
from vision import textbook

from treadle.core.machine import peak_memory
from treadle.core.project import load_project
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.evaluate.answers import score_records
from treadle.pipeline import Workshop
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES
from treadle.train.rounds import first_round
from treadle.train.stage import round_runtime, train_flops

Curve = list[tuple[float, float]]
"""Seconds of training, and the share of the test pictures that are then told rightly."""


@dataclass(frozen=True)
class Task:
    """``ours`` are settings that are put over those of ``recipe``; Keras fits ``epochs`` epochs in batches of ``batch``."""

    recipe: str
    ours: tuple[str, ...]
    mark: float
    batch: int
    epochs: int


TASKS = {
    "digits": Task("digits-mlp", ("train.budget=4 epochs", "train.learning_rate=0.006"), 0.98, 32, 12),
    "objects": Task(
        "objects-resnet", ("train.budget=3 epochs", "train.learning_rate=0.01", "model.trunk.conv.channels=[16, 32, 64, 128]"),
        0.80, 64, 25,
    ),
}


def prepared(task: Task, seed: int, threads: int, folder: Path) -> Workshop:
    """The recipe's project in ``folder``, its pictures read."""
    shutil.copy(str(files("treadle") / "recipes" / task.recipe / "treadle.yaml"), folder)
    given = [*task.ours, f"seed={seed}", f"train.threads={threads}", "train.validate_every=0.05", "train.checkpoint_every=1 h"]
    return Workshop.open(load_project(folder, given))


def by_treadle(shop: Workshop) -> Curve:
    _, dataset = shop.prepared()
    project = shop.settle()
    made, schema, batch = first_round(project, dataset), Schema.load(dataset.path), project.resolved.batch
    runtime = round_runtime(project, made, train_flops(project, made))
    (head,) = schema.targets
    test = Table.open(dataset.path, "test", list(schema.inputs), [head], shuffle=False)
    curve: Curve = []

    def validate(model: torch.nn.Module) -> float:
        seconds = time.perf_counter() - start - loop.position.spent.get("validation", 0.0)
        found = score_records(model, test)[head]  # type: ignore[arg-type]
        right = float((found.outputs.argmax(-1) == found.targets).mean())
        curve.append((seconds, right))
        return 1 - right

    loop = Loop(
        made.model, OBJECTIVES[made.objective], made.batches, validate, Horizon.of(made.budget, batch, made.per_epoch),
        made.settings, batch, made.learning_rate, runtime, project.folder, made.held_out.unit,
    )
    loop.resume()
    torch.manual_seed(project.spec.seed)
    start = time.perf_counter()
    loop.run([])
    loop.close()
    return curve


def arrays(shop: Workshop, part: str) -> tuple[Array, Array]:
    """float32 (N, H, W, C) from 0 to 1, classes (N,)"""
    _, dataset = shop.prepared()
    schema = Schema.load(dataset.path)
    (image,), (head,) = list(schema.inputs), list(schema.targets)
    every = Table.open(dataset.path, part, [image], [head], shuffle=False).whole()
    return every.inputs[image].numpy().astype(np.float32) / 255, every.targets[head].numpy()


def by_keras(shop: Workshop, task: Task, seed: int) -> Curve:
    import keras

    keras.utils.set_random_seed(seed)
    x, y = arrays(shop, "train")
    test_x, test_y = arrays(shop, "test")
    model = textbook(x.shape[1], x.shape[3])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    curve, spent = [], 0.0
    for _ in range(task.epochs):
        before = time.perf_counter()
        model.fit(x, y, batch_size=task.batch, epochs=1, verbose=0)
        spent += time.perf_counter() - before
        curve.append((spent, float(model.evaluate(test_x, test_y, batch_size=250, verbose=0)[1])))
    return curve


def run_one(system: str, task: Task, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        shop = prepared(task, seed, threads, Path(name))
        curve = by_treadle(shop) if system == "Treadle" else by_keras(shop, task, seed)
    print(json.dumps({"speed": 0.0, "peak_memory": peak_memory(), "curve": curve}))


def reached(curve: Curve, mark: float) -> float:
    return next((seconds for seconds, share in curve if share >= mark), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, help="one of them alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("Treadle", "Keras 3 fit"), help="one system alone")
    parser.add_argument("--set", action="append", default=[], help="a setting of ours, such as train.batch=256")
    parser.add_argument("--run", nargs=2, metavar=("SYSTEM", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name in [given.task] if given.task else TASKS:
        task = replace(TASKS[name], ours=(*TASKS[name].ours, *given.set))
        if given.run:
            run_one(given.run[0], task, int(given.run[1]), given.threads)
            return
        compare(name, task, given)


def compare(name: str, task: Task, given: argparse.Namespace) -> None:
    curves: dict[str, list[Curve]] = {system: [] for system in ([given.only] if given.only else ("Treadle", "Keras 3 fit"))}
    settings = [word for setting in given.set for word in ("--set", setting)]
    for seed in range(given.seeds):
        for system, found in curves.items():
            words = ["--task", name, "--threads", str(given.threads), *settings, "--run", system, str(seed)]
            measured = measure(__file__, words, given.threads)
            found.append([(seconds, share) for seconds, share in measured.extra["curve"]])
            best = max(found[-1], key=lambda point: point[1])
            print(f"seed {seed}: {system}: best {best}, last {found[-1][-1]}, others {measured.others:.0%}", file=sys.stderr)
    marks = [task.mark] * given.seeds
    for seed, curve in enumerate(curves.get("Keras 3 fit", [])):
        marks[seed] = min(task.mark, max(share for _, share in curve))
    print(heading(f"Seconds until {task.mark:.0%} of {name} are right, {given.threads} threads.", {"keras": version("keras")}))
    print(f"| | mark, lowest | seconds to it, median | range | seconds in all | right at the end, mean |\n{'|---' * 6}|")
    for system, found in curves.items():
        first = [reached(curve, mark) for curve, mark in zip(found, marks, strict=True)]
        whole, last = zip(*(curve[-1] for curve in found), strict=True)
        print(
            f"| {system} | {min(marks):.2%} | {statistics.median(first):.1f} | {min(first):.1f} - {max(first):.1f} "
            f"| {statistics.median(whole):.1f} | {statistics.mean(last):.2%} |"
        )


if __name__ == "__main__":
    main()
