"""network -> package: what is served, with int8 weights if asked, and how far its outputs are from the network's."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from treadle.core.errors import GateRefused
from treadle.core.machine import cores
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.network import Network, load_network, quantize_network, save_network
from treadle.store.artifacts import Artifact, Store

VERSION = 1
ROWS = 256


def package_network(project: Project, store: Store, model: Artifact, scorecard: Artifact, dataset: Artifact) -> Artifact:
    """Package ``model`` as ``compress:`` says. Raises ``GateRefused`` where the loss rises by more than ``max_drift``."""
    settings = project.spec.compress
    quantize = settings.quantize or "none"
    config = settings.model_dump(mode="json") | {"quantize": quantize}
    making = store.making("package", (model.id, scorecard.id), config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(cores())
    schema, original = Schema.load(model.path), load_network(model.path)
    table = Table.open(dataset.path, str(scorecard.counts["part"]), list(schema.inputs), list(schema.targets), shuffle=False)
    with making.draft() as draft:
        packed = load_network(model.path)
        if quantize == "int8":
            quantize_network(packed)
        save_network(packed, draft.path)
        shutil.copy(model.path / FIELDS_FILE, draft.path)
        packed = load_network(draft.path)  # what is measured is what will be served
        before = float(np.mean(pq.read_table(scorecard.path / "documents.parquet")["loss"].to_numpy()))
        after = _loss(packed, table)
        drift = after / before - 1 if before > 1e-9 else after - before
        if drift > settings.max_drift:
            cure = "raise compress.max_drift, or set compress.quantize: none"
            message = f"{quantize} weights raise the loss from {before:.4f} to {after:.4f}"
            raise GateRefused(f"{message}: {drift:+.2%}, more than {settings.max_drift:.2%}", cure=cure)
        speeds = _speeds(table, original, packed)
        draft.counts.update(
            {
                "quantize": quantize, "drift": drift, "max_drift": settings.max_drift, "measure": "loss",
                "original": _figures(model.path, speeds[0], before), "package": _figures(draft.path, speeds[1], after),
            }
        )
    return making.open()


@torch.inference_mode()
def _loss(network: Network, table: Table) -> float:
    """The mean over records of the heads' weighted losses, as the scorecard has it."""
    total = 0.0
    with task("scoring the package", table.records, "records") as work:
        for first in range(0, table.records, ROWS):
            batch = table.at(np.arange(first, min(first + ROWS, table.records)))
            losses = network.losses(network(batch), batch)
            total += sum(network.weights[name] * float(loss.nan_to_num().double().sum()) for name, loss in losses.items())
            work.advance(batch.size)
    return total / table.records


@torch.inference_mode()
def _speeds(table: Table, *networks: Network, rounds: int = 5) -> list[float]:
    """Records/s of each network, one batch at a time: the median of alternating rounds, so that drift cancels."""
    batch = table.at(np.arange(min(ROWS, table.records)))
    found: list[list[float]] = [[] for _ in networks]
    for turn in range(rounds + 1):
        for network, times in zip(networks, found, strict=True):
            start = time.perf_counter()
            network(batch)
            if turn:  # the first round warms up
                times.append(batch.size / (time.perf_counter() - start))
    return [statistics.median(times) for times in found]


def _figures(folder: Path, speed: float, loss: float) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"bytes": size, "records_per_second": round(speed, 1), "loss": loss}
