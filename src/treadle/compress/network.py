"""Packages of models of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from treadle.compress.packing import Packing
from treadle.compress.turns import in_turn
from treadle.core.progress import task
from treadle.data.columns import load_column
from treadle.data.reference import References, references_of, seen_inputs, seen_outputs, thinned, watched
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.network import Network, load_network, quantize_network, save_network
from treadle.store.artifacts import Artifact

ROWS = 256
_ANSWERED = 2048  # held-out records whose answers later ones are compared with


class NetworkPacking(Packing):
    """Its measure is the mean over records of the heads' weighted losses, as the scorecard has it."""

    described = FIELDS_FILE

    def __init__(self, model: Artifact, scorecard: Artifact, dataset: Artifact) -> None:
        super().__init__(model, scorecard, dataset)
        self.schema, part = Schema.load(model.path), str(scorecard.counts["part"])
        self.table = Table.open(dataset.path, part, list(self.schema.inputs), list(self.schema.targets), shuffle=False)

    def load(self, folder: Path) -> Network:
        return load_network(folder)

    def quantize(self, model: Network, kind: str) -> None:
        quantize_network(model)

    def save(self, model: Network, folder: Path) -> None:
        save_network(model, folder)

    def before(self) -> float:
        return float(np.mean(pq.read_table(self.scorecard.path / "documents.parquet")["loss"].to_numpy()))

    @torch.inference_mode()
    def after(self, packed: Network) -> float:
        total, records = 0.0, self.table.records
        with task("scoring the package", records, "records") as work:
            for first in range(0, records, ROWS):
                batch = self.table.at(np.arange(first, min(first + ROWS, records)))
                losses = packed.losses(packed(batch), batch)
                total += sum(packed.weights[name] * float(loss.nan_to_num().double().sum()) for name, loss in losses.items())
                work.advance(batch.size)
        return total / records

    @torch.inference_mode()
    def speeds(self, original: Network, packed: Network) -> tuple[str, list[float]]:
        """Records/s, one batch at a time."""
        batch = self.table.at(np.arange(min(ROWS, self.table.records)))

        def answer(network: Network) -> int:
            network(batch)
            return batch.size

        return "records", in_turn((original, packed), answer)

    @torch.inference_mode()
    def references(self, packed: Network) -> References:
        """The inputs of the training part, and the answers to records of the part that the scorecard is of."""
        columns = {name: load_column(self.dataset.path, "train", f"inputs.{name}") for name in watched(self.schema)}
        seen = seen_inputs(self.schema, {name: thinned(column) for name, column in columns.items()})
        count = min(_ANSWERED, self.table.records)
        chosen = np.unique(np.linspace(0, self.table.records - 1, count).astype(np.int64))
        found: list[dict[str, Any]] = []
        for first in range(0, len(chosen), ROWS):
            readable = packed.readable(packed(self.table.at(chosen[first : first + ROWS])))
            answers = {name: self._answers(name, outputs) for name, outputs in readable.items()}
            found += [{name: given[place] for name, given in answers.items()} for place in range(len(next(iter(answers.values()))))]
        return references_of(seen | seen_outputs(self.schema, found))

    def _answers(self, name: str, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """As they are given out, but of two texts always the cosine: both of a held-out pair are there."""
        found = self.schema.targets[name].answers(outputs.float().numpy())
        if self.schema.model.heads[name].kind == "embedding":
            return [{"answer": float(row["answer"][0] @ row["answer"][1])} for row in found]
        return found
