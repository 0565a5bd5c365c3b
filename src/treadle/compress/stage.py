"""model -> package: what is served. Its outputs are compared with the model's, and one that drifted too far is not written."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from treadle.compress.masked import package_masked
from treadle.compress.network import package_network
from treadle.core.errors import GateRefused
from treadle.core.machine import cores
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.shards import END_ID, Shard
from treadle.model.generate import TextModel, generate, generation_threads
from treadle.model.layers.quantized import quantize_modules
from treadle.model.score import score_documents
from treadle.model.text import load_text_model, save_text_model
from treadle.store.artifacts import Artifact, Store

VERSION = 1


def compress_model(project: Project, store: Store, model: Artifact, scorecard: Artifact, dataset: Artifact) -> Artifact:
    """Package ``model`` as ``compress:`` says. Raises ``GateRefused`` where bits per byte rise by more than ``max_drift``."""
    if dataset.counts.get("kind") == "records":
        return package_network(project, store, model, scorecard, dataset)
    if project.spec.model.masks:
        return package_masked(project, store, model, scorecard, dataset)
    settings = project.spec.compress
    quantize = settings.quantize or "int8"
    config = settings.model_dump(mode="json") | {"quantize": quantize}
    parents = (model.id, scorecard.id)
    making = store.making("package", parents, config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(cores())
    original = load_text_model(model.path)
    with making.draft() as draft:
        packed = load_text_model(model.path)
        if quantize == "int8":
            quantize_modules(packed)
        save_text_model(packed, draft.path)
        shutil.copy(model.path / "tokenizer.json", draft.path)
        packed = load_text_model(draft.path)  # what is measured is what will be served
        before = scorecard.counts["metrics"]["bits_per_byte"]["value"]
        after = _bits_per_byte(packed, scorecard, dataset)
        drift = after / before - 1
        if drift > settings.max_drift:
            cure = "raise compress.max_drift, or set compress.quantize: none"
            message = f"{quantize} weights raise bits per byte from {before:.4f} to {after:.4f}"
            raise GateRefused(f"{message}: {drift:+.2%}, more than {settings.max_drift:.2%}", cure=cure)
        speeds = _speeds(original, packed)
        draft.counts.update(
            {
                "quantize": quantize, "drift": drift, "max_drift": settings.max_drift,
                "original": _figures(model.path, speeds[0], before), "package": _figures(draft.path, speeds[1], after),
            }
        )
    return making.open()


def _bits_per_byte(model: TextModel, scorecard: Artifact, dataset: Artifact) -> float:
    """Of ``model`` on exactly the documents that the scorecard scored."""
    table = pq.read_table(scorecard.path / "documents.parquet")
    shard = Shard(dataset.path, str(scorecard.counts["part"]))
    chosen = table["document"].to_pylist()
    documents = [shard.document(i) for i in chosen]
    masks = [shard.document_targets(i) for i in chosen]
    with task("scoring the package", sum(int(mask.sum()) for mask in masks), "tokens") as work:
        nats = score_documents(model, documents, masks, work.advance).nats
    return float(nats.sum() / math.log(2) / np.sum(table["bytes"].to_numpy()))


def _speeds(*models: TextModel, rounds: int = 5) -> list[float]:
    """Generated tokens/s of each model, one stream, greedy: the median of alternating rounds, so that drift cancels."""
    tokens = min(64, models[0].context - 2)
    torch.set_num_threads(generation_threads(models[0]))
    found: list[list[float]] = [[] for _ in models]
    for turn in range(rounds + 1):
        for model, times in zip(models, found, strict=True):
            start = time.perf_counter()
            count = sum(1 for _ in generate(model, [END_ID], tokens))
            if turn:  # the first round warms up
                times.append(count / (time.perf_counter() - start))
    return [statistics.median(times) for times in found]


def _figures(folder: Path, speed: float, bits_per_byte: float) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"bytes": size, "tokens_per_second": round(speed, 1), "bits_per_byte": bits_per_byte}
