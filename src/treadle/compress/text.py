"""Packages of models of running text: int8 weights unless asked otherwise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from treadle.compress.packing import Packing
from treadle.compress.turns import in_turn
from treadle.core.machine import threads
from treadle.core.progress import task
from treadle.data.reference import References, references_of, seen_tokens
from treadle.data.shards import END_ID, Shard
from treadle.model.decoder import compiled_decoder
from treadle.model.generate import generate, generation_threads, make_memory
from treadle.model.layers.quantized import quantize_language
from treadle.model.memory import TextModel
from treadle.model.score import score_documents
from treadle.model.text import keep_marks, load_text_model, save_text_model

_PIECES, _SPAN = 2000, 512  # of the training part that later texts are compared with: how many, and tokens of each
_FEW = 40  # pieces at least, which are shorter then


class TextPacking(Packing):
    """Its measure is bits per byte; its speed that of generating."""

    described = "tokenizer.json"
    weights = "int8"
    measure = "bits per byte"

    def load(self, folder: Path) -> TextModel:
        return load_text_model(folder)

    def quantize(self, model: TextModel, kind: str) -> None:
        quantize_language(model, kind)

    def save(self, model: TextModel, folder: Path) -> None:
        save_text_model(model, folder)
        keep_marks(self.model.path, folder)

    def before(self) -> float:
        return float(self.scorecard.counts["metrics"]["bits_per_byte"]["value"])

    def after(self, packed: TextModel) -> float:
        table = pq.read_table(self.scorecard.path / "documents.parquet")
        shard = Shard(self.dataset.path, str(self.scorecard.counts["part"]))
        chosen = table["document"].to_pylist()
        documents, decoder = [shard.document(i) for i in chosen], compiled_decoder(packed, threads())
        masks = [shard.document_targets(i) for i in chosen]
        with task("scoring the package", sum(int(mask.sum()) for mask in masks), "tokens") as work:
            nats = score_documents(packed, documents, masks, work.advance, decoder.logits if decoder else None).nats
        return float(nats.sum() / math.log(2) / np.sum(table["bytes"].to_numpy()))

    def speeds(self, original: TextModel, packed: TextModel) -> tuple[str, list[float]]:
        """Generated tokens/s, one stream, greedy."""
        tokens = min(64, original.context - 2)
        torch.set_num_threads(generation_threads(original))
        pairs = [(model, make_memory(model, 1)) for model in (original, packed)]
        return "tokens", in_turn(pairs, lambda pair: sum(1 for _ in generate(pair[0], [END_ID], tokens, memory=pair[1])))

    def references(self, packed: TextModel) -> References:
        """The tokens of texts to continue: those of pieces of the training part, evenly spaced, as prompts are pieces."""
        tokens = Shard(self.dataset.path, "train").tokens
        length = max(1, min(_SPAN, len(tokens) // _FEW))
        starts = np.unique(np.linspace(0, max(0, len(tokens) - length), min(_PIECES, len(tokens) // length)).astype(np.int64))
        pieces = (tokens[start : start + length] for start in starts)
        return references_of({("input", "text"): seen_tokens([piece[piece != END_ID] for piece in pieces])})
