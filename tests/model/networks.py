"""Networks of every kind of input that a table has, and batches for them."""

from __future__ import annotations

from typing import Any

import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.network import Network, make_network
from treadle.spec.model import Model

TRUNKS: dict[str, dict[str, Any]] = {
    "mlp": {"mlp": {"width": 16, "depth": 2, "norm": "batch", "residual": True}},
    "transformer": {"transformer": {"depth": 2, "width": 16, "heads": 2}},
    "lstm": {"recurrent": {"width": 12, "depth": 2, "directions": 2, "embedding": 16}},
    "gru": {"recurrent": {"cell": "gru", "width": 12, "embedding": 16}},
}
LAYOUTS = {
    "note": Layout("text", vocabulary=50, length=12), "size": Layout("number", edges=(-1.0, -0.2, 0.4, 2.0)),
    "shape": Layout("category", vocabulary=7), "when": Layout("date", channels=10), "tags": Layout("set", vocabulary=9),
}
HEADS = {
    "kind": Layout("category", vocabulary=4, options={"smoothing": 0.0, "weight": 1.0}),
    "price": Layout("number", mean=(0.0,), deviation=(1.0,), options={"loss": "mse", "quantiles": [], "weight": 0.5}),
    "yes": Layout("binary", vocabulary=2, options={"weight": 1.0}),
}


def make(trunk: str, names: tuple[str, ...] = tuple(LAYOUTS), heads: tuple[str, ...] = tuple(HEADS), seed: int = 0) -> Network:
    model = Model.model_validate({
        "inputs": {name: {LAYOUTS[name].kind: {}} for name in names}, "trunk": TRUNKS[trunk],
        "heads": {name: {HEADS[name].kind: {}} for name in heads},
    })
    return make_network(model, {"inputs": {n: LAYOUTS[n] for n in names}, "heads": {n: HEADS[n] for n in heads}}, seed)


def batch_of(rows: int, seed: int = 0, names: tuple[str, ...] = tuple(LAYOUTS)) -> Batch:
    """Rows of different lengths; one number in five is missing."""
    source = torch.Generator().manual_seed(seed)

    def ids(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, most, shape, generator=source)

    size = torch.randn(rows, generator=source)
    inputs = {
        "note": ids(50, rows, 12), "size": size.masked_fill(ids(5, rows) == 0, torch.nan), "shape": ids(7, rows),
        "when": torch.randn(rows, 10, generator=source), "tags": ids(9, rows, 5),
    }
    lengths = {"note": ids(12, rows) + 1, "tags": ids(5, rows) + 1}
    targets = {"kind": ids(4, rows), "price": torch.randn(rows, generator=source), "yes": ids(2, rows).float()}
    return Batch({n: inputs[n] for n in names}, targets, {n: lengths[n] for n in names if n in lengths})
