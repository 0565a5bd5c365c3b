"""What a model must beat to be worth its cost, scored on the same documents. V vocabulary, N tokens, D documents."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.uint16]


class NGram:
    """Interpolated Kneser-Ney of order 1, 2 or 3 (Chen and Goodman 1999, section 2.8), one discount n1 / (n1 + 2 n2) per order.

    An n-gram is one integer in base V. Lower orders count in how many contexts a token is seen, not how often; order 1 alone
    counts how often, and every distribution is mixed with the uniform one, so that no token is impossible.
    """

    def __init__(self, stream: Tokens, vocabulary: int, order: int) -> None:
        """``stream`` (N,): the training documents, each closed by the end mark."""
        assert 1 <= order <= 3, order
        assert vocabulary**order < 2**62, "n-grams must fit 64 bits"
        self.vocabulary, self.order = vocabulary, order
        grams = _grams(stream.astype(np.int64), vocabulary, order)
        self.levels = []
        keys, counts = np.unique(grams, return_counts=True)
        for level in range(order, 0, -1):
            self.levels.append(_Level(keys, counts.astype(np.float64), vocabulary))
            keys, counts = np.unique(keys % vocabulary ** (level - 1), return_counts=True)

    def nats(self, document: Tokens) -> float:
        """Surprise of a document, which starts after an end mark (its last token)."""
        tokens = document.astype(np.int64)
        padded = np.concatenate([np.full(self.order - 1, tokens[-1]), tokens])
        probability = np.full(len(tokens), 1 / self.vocabulary)
        for order in range(1, self.order + 1):
            grams = _grams(padded[self.order - order :], self.vocabulary, order)
            probability = self.levels[self.order - order].probability(grams, probability)
        return float(-np.log(probability).sum())


class _Level:
    """Counts of one order, and what its contexts leave for the order below."""

    def __init__(self, keys: Keys, counts: Floats, vocabulary: int) -> None:
        self.keys, self.counts, self.vocabulary = keys, counts, vocabulary
        once, twice = float((counts == 1).sum()), float((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.contexts, first = np.unique(keys // vocabulary, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        self.followers = np.diff(np.append(first, len(keys))).astype(np.float64)

    def probability(self, grams: Keys, lower: Floats) -> Floats:
        """P(token | context) for each n-gram, given that of the order below."""
        count = _find(self.keys, self.counts, grams)
        context = grams // self.vocabulary
        total, followers = _find(self.contexts, self.totals, context), _find(self.contexts, self.followers, context)
        seen = np.maximum(count - self.discount, 0)
        mixed = (seen + self.discount * followers * lower) / np.maximum(total, 1)
        return np.where(total > 0, mixed, lower)


def _grams(tokens: Keys, vocabulary: int, order: int) -> Keys:
    """Every run of ``order`` tokens as one integer."""
    count = len(tokens) - order + 1
    grams = np.zeros(max(count, 0), np.int64)
    for offset in range(order):
        grams = grams * vocabulary + tokens[offset : offset + count]
    return grams


def _find(keys: Keys, values: Floats, wanted: Keys) -> Floats:
    """The value of each wanted key, 0 where it is absent; ``keys`` ascend."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0.0)


def compressed_nats(texts: Sequence[bytes]) -> Floats:
    """Length of each text under LZMA at its strongest, without headers, as nats: a model that learns from that text alone."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    sizes = [len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters)) for text in texts]
    return np.array(sizes, np.float64) * 8 * math.log(2)
