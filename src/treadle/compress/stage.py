"""model -> package: what is served. Its outputs are compared with the model's, and one that drifted too far is not written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from treadle.compress.masked import MaskedPacking
from treadle.compress.network import NetworkPacking
from treadle.compress.packing import Packing
from treadle.compress.text import TextPacking
from treadle.core.errors import GateRefused
from treadle.core.machine import threads
from treadle.core.project import Project
from treadle.data.reference import save_references
from treadle.store.artifacts import Artifact, Draft, Store

VERSION = 4


def compress_model(project: Project, store: Store, model: Artifact, scorecard: Artifact, dataset: Artifact) -> Artifact:
    """Package ``model`` as ``compress:`` says. Raises ``GateRefused`` where it answers worse by more than ``max_drift``."""
    if dataset.counts.get("kind") == "records":
        kind: type[Packing] = NetworkPacking
    else:
        kind = MaskedPacking if project.spec.model.masks else TextPacking
    settings = project.spec.compress
    quantize = settings.quantize or kind.weights
    config = settings.model_dump(mode="json") | {"quantize": quantize}
    making = store.making("package", (model.id, scorecard.id), config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(threads())
    with making.draft() as draft:
        _pack(kind(model, scorecard, dataset), draft, quantize, settings.max_drift)
    return making.open()


def _pack(packing: Packing, draft: Draft, quantize: str, limit: float) -> None:
    original, packed = packing.load(packing.model.path), packing.load(packing.model.path)
    if quantize != "none":
        packing.quantize(packed, quantize)
    packing.save(packed, draft.path)
    shutil.copy(packing.model.path / packing.described, draft.path)
    packed = packing.load(draft.path)  # what is measured is what will be served
    before, after = packing.before(), packing.after(packed)
    drift = after / before - 1 if before > 1e-9 else after - before
    if drift > limit:
        cure = "raise compress.max_drift, or set compress.quantize: none"
        message = f"{quantize} weights raise the {packing.measure} from {before:.4f} to {after:.4f}"
        raise GateRefused(f"{message}: {drift:+.2%}, more than {limit:.2%}", cure=cure)
    if usual := packing.references(packed):
        save_references(draft.path, usual)
    key = packing.measure.replace(" ", "_")
    found: list[dict[str, Any]] = [
        {"bytes": _size(packing.model.path), key: before}, {"bytes": _size(draft.path), key: after},
    ]
    unit, rates = packing.speeds(original, packed)
    for figures, rate in zip(found, rates, strict=True):
        figures[f"{unit}_per_second"] = round(rate, 1)
    draft.counts.update({
        "quantize": quantize, "drift": drift, "max_drift": limit, "measure": packing.measure,
        "original": found[0], "package": found[1],
    })


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
