"""Two models on the same documents: the difference, with an interval that knows that they are the same documents."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from treadle.core.errors import WorkError
from treadle.evaluate.metrics import Figure, interval, weights
from treadle.store.artifacts import Artifact


def compare(before: Artifact, after: Artifact, resamples: int, seed: int) -> tuple[Figure, float]:
    """From two scorecards of one dataset: the change in their measure, such as bits per byte (negative: better), with its paired
    95% interval, and the earlier figure, to which a relative bound refers. Raises ``WorkError`` where the documents differ."""
    old, new = (pq.read_table(card.path / "documents.parquet") for card in (before, after))
    if old["id"].to_pylist() != new["id"].to_pylist() or not np.array_equal(old["size"], new["size"]):
        cure = "evaluate both with the same 'evaluate:' settings on the same dataset"
        raise WorkError(f"{before.id} and {after.id} scored different documents", cure=cure)
    sizes = old["size"].to_numpy()
    earlier, later = (table["loss"].to_numpy() for table in (old, new))
    drawn = weights(len(sizes), resamples, seed)
    change = later - earlier
    figure = interval(change.sum() / sizes.sum(), (drawn @ change) / (drawn @ sizes))
    return figure, float(earlier.sum() / sizes.sum())
