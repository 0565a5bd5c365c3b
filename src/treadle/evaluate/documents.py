"""Which documents of a part are scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from treadle.data.loader import Numbers
from treadle.data.shards import Shard


def choose_documents(shard: Shard, max_tokens: int, seed: int) -> Numbers:
    """Ascending indices of whole documents, drawn in an order that depends on the seed, up to ``max_tokens``; at least one."""
    order = np.random.default_rng(seed).permutation(len(shard))
    within = np.cumsum(shard_tokens(shard, order)) <= max_tokens
    within[0] = True
    return np.sort(order[within]).astype(np.int64)


def shard_tokens(shard: Shard, chosen: Numbers) -> npt.NDArray[np.int64]:
    """Tokens of each chosen document."""
    lengths: npt.NDArray[np.int64] = np.diff(shard.starts)[chosen]
    return lengths
