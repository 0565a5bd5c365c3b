"""Tokens at rest: one memory-mapped file per part of a split, with a table of its documents.

    PART.tokens          uint16, all documents end to end, each closed by the end-of-text token
    PART.targets         uint8 per token, optional: 1 where the token is to be predicted, 0 where it is only read
    PART.documents.parquet   id, source, tokens (end mark included), bytes (of the text that is predicted)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PARTS = ("train", "validation", "test")
END = "<|endoftext|>"
END_ID = 0
"""The end mark's token id, in every vocabulary."""


@dataclass(frozen=True)
class Document:
    """One record as tokens, end mark included. ``targets``: as long as ``tokens``, or None where all are predicted."""

    id: str
    source: str
    tokens: Sequence[int]
    bytes: int
    targets: Sequence[int] | None = None


class Shard:
    """One part of a dataset, memory-mapped; N tokens, D documents."""

    def __init__(self, folder: Path, part: str) -> None:
        table = pq.read_table(folder / f"{part}.documents.parquet")
        self.part = part
        self.ids: list[str] = table["id"].to_pylist()
        self.sources: list[str] = table["source"].to_pylist()
        self.bytes: npt.NDArray[np.int64] = table["bytes"].to_numpy()
        lengths = table["tokens"].to_numpy()
        self.starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        file = folder / f"{part}.tokens"
        self.tokens: npt.NDArray[np.uint16] = (
            np.memmap(file, np.uint16, "r") if file.stat().st_size else np.zeros(0, np.uint16)
        )
        masked = folder / f"{part}.targets"
        self.targets: npt.NDArray[np.uint8] | None = (
            np.memmap(masked, np.uint8, "r") if masked.exists() and masked.stat().st_size else None
        )
        assert len(self.tokens) == self.starts[-1], f"{file} does not match its documents"

    def __len__(self) -> int:
        """Documents."""
        return len(self.ids)

    def document(self, index: int) -> npt.NDArray[np.uint16]:
        """The tokens of document ``index``, end mark included."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def document_targets(self, index: int) -> npt.NDArray[np.bool_]:
        """Which of the document's tokens are predicted."""
        start, end = self.starts[index], self.starts[index + 1]
        if self.targets is None:
            return np.ones(end - start, np.bool_)
        return self.targets[start:end].astype(np.bool_)


def write_shard(folder: Path, part: str, documents: Iterable[Document]) -> dict[str, int]:
    """Write a part; gives ``{"documents", "tokens", "bytes"}``."""
    ids, sources, lengths, sizes = [], [], [], []
    masks: list[npt.NDArray[np.uint8]] = []
    partial = False
    with (folder / f"{part}.tokens").open("wb") as stream:
        for document in documents:
            stream.write(np.asarray(document.tokens, np.uint16).tobytes())
            partial = partial or document.targets is not None
            mask = np.ones(len(document.tokens), np.uint8) if document.targets is None else np.asarray(document.targets, np.uint8)
            assert len(mask) == len(document.tokens)
            masks.append(mask)
            ids.append(document.id)
            sources.append(document.source)
            lengths.append(len(document.tokens))
            sizes.append(document.bytes)
    if partial:
        (folder / f"{part}.targets").write_bytes(np.concatenate(masks).tobytes())
    columns = {
        "id": pa.array(ids, pa.string()), "source": pa.array(sources, pa.string()),
        "tokens": pa.array(lengths, pa.int64()), "bytes": pa.array(sizes, pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / f"{part}.documents.parquet", compression="zstd")
    return {"documents": len(ids), "tokens": sum(lengths), "bytes": sum(sizes)}
