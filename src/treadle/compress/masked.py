"""Packages of masked language models: the start of other models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from treadle.compress.packing import Packing
from treadle.compress.turns import in_turn
from treadle.core.batch import Batch
from treadle.core.progress import task
from treadle.data.masking import Masker, masked_documents
from treadle.data.shards import Shard
from treadle.data.tokenizer import load_tokenizer
from treadle.model.network import Network, load_network, quantize_network, save_network
from treadle.model.score import score_masked

_TIMED = 8


class MaskedPacking(Packing):
    """Its measure is the loss per hidden token of exactly what the scorecard hid."""

    described = "tokenizer.json"

    def load(self, folder: Path) -> Network:
        return load_network(folder)

    def quantize(self, model: Network, kind: str) -> None:
        quantize_network(model)

    def save(self, model: Network, folder: Path) -> None:
        save_network(model, folder)

    def before(self) -> float:
        table = pq.read_table(self.scorecard.path / "documents.parquet")
        return float(np.sum(table["loss"].to_numpy()) / np.sum(table["size"].to_numpy()))

    def after(self, packed: Network) -> float:
        documents, pieces = self._pieces(packed)
        with task("scoring the package", len(pieces), "pieces") as work:
            nats, _, count = score_masked(packed, pieces, documents, work.advance)
        return float(nats.sum() / count.sum())

    def speeds(self, original: Network, packed: Network) -> tuple[str, list[float]]:
        """Tokens read per second, one piece of a text at a time."""
        documents, pieces = self._pieces(original)
        few = pieces[:_TIMED]

        def read(network: Network) -> int:
            score_masked(network, few, documents)
            return sum(batch.positions for _, batch in few)

        return "tokens", in_turn((original, packed), read)

    def _pieces(self, network: Network) -> tuple[int, list[tuple[int, Batch]]]:
        """How many documents the scorecard read, and their pieces with what it hid."""
        chosen = pq.read_table(self.scorecard.path / "documents.parquet")["document"].to_numpy()
        ((name, _),), ((head, given),) = network.spec.inputs.items(), network.spec.heads.items()
        masker = Masker(load_tokenizer(self.dataset.path / self.described), given.settings, 0)
        shard = Shard(self.dataset.path, str(self.scorecard.counts["part"]))
        return len(chosen), list(masked_documents(shard, chosen, masker, network.context, name, head))
