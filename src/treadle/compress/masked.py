"""masked language model -> package: the start of other models, with int8 weights if asked."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import torch

from treadle.core.errors import GateRefused
from treadle.core.machine import cores
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.masking import Masker, masked_documents
from treadle.data.shards import Shard
from treadle.data.tokenizer import load_tokenizer
from treadle.model.network import Network, load_network, quantize_network, save_network
from treadle.model.score import score_masked
from treadle.store.artifacts import Artifact, Store

VERSION = 1
_TOKENIZER = "tokenizer.json"


def package_masked(project: Project, store: Store, model: Artifact, scorecard: Artifact, dataset: Artifact) -> Artifact:
    """Package ``model`` as ``compress:`` says. Raises ``GateRefused`` where the loss rises by more than ``max_drift``."""
    settings = project.spec.compress
    quantize = settings.quantize or "none"
    config = settings.model_dump(mode="json") | {"quantize": quantize}
    making = store.making("package", (model.id, scorecard.id), config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(cores())
    with making.draft() as draft:
        packed = load_network(model.path)
        if quantize == "int8":
            quantize_network(packed)
        save_network(packed, draft.path)
        shutil.copy(model.path / _TOKENIZER, draft.path)
        packed = load_network(draft.path)  # what is measured is what others start from
        table = pq.read_table(scorecard.path / "documents.parquet")
        before = float(np.sum(table["loss"].to_numpy()) / np.sum(table["size"].to_numpy()))
        after = _loss(packed, scorecard, dataset)
        drift = after / before - 1
        if drift > settings.max_drift:
            cure = "raise compress.max_drift, or set compress.quantize: none"
            message = f"{quantize} weights raise the loss from {before:.4f} to {after:.4f}"
            raise GateRefused(f"{message}: {drift:+.2%}, more than {settings.max_drift:.2%}", cure=cure)
        sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (model.path, draft.path)]
        draft.counts.update({
            "quantize": quantize, "drift": drift, "max_drift": settings.max_drift, "measure": "loss",
            "original": {"bytes": sizes[0], "loss": before}, "package": {"bytes": sizes[1], "loss": after},
        })
    return making.open()


def _loss(network: Network, scorecard: Artifact, dataset: Artifact) -> float:
    """Nats per hidden token of exactly what the scorecard hid."""
    chosen = pq.read_table(scorecard.path / "documents.parquet")["document"].to_numpy()
    ((name, _),), ((head, given),) = network.spec.inputs.items(), network.spec.heads.items()
    masker = Masker(load_tokenizer(dataset.path / _TOKENIZER), given.settings, 0)
    shard = Shard(dataset.path, str(scorecard.counts["part"]))
    pieces = list(masked_documents(shard, chosen, masker, network.context, name, head))
    with task("scoring the package", len(pieces), "pieces") as work:
        nats, _, count = score_masked(network, pieces, len(chosen), work.advance)
    return float(nats.sum() / count.sum())
