"""Copies and near-copies: which texts are to be taken for one.

Near means a Jaccard similarity of the sets of word 5-grams (Broder 1997) of at least a threshold. Candidates come from MinHash
signatures cut into bands (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4); each candidate pair is then compared
in full, so nothing is called near that is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

Hashes = npt.NDArray[np.uint64]

WORDS = 5
PERMUTATIONS = 128
_MISSED = 1e-4  # at most this share of pairs that are exactly at the threshold is not found
_SEED = 42

# Word characters keep their place (capitals as small letters), all others become NUL; bytes of other scripts count as letters.
_FOLD = bytes(
    ord(chr(b).lower()) if chr(b).isascii() and (chr(b).isalnum() or b == ord("_")) else b if b >= 128 else 0 for b in range(256)
)
_ODD = 0x9E3779B97F4A7C15
_INVERSE = pow(_ODD, -1, 2**64)


class Clusters:
    """Union-find over 0..n-1; the smallest member stands for its cluster."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def first(self, item: int) -> int:
        """The smallest member of ``item``'s cluster."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, two: int) -> None:
        low, high = sorted((self.first(one), self.first(two)))
        self._parent[high] = low


def exact_clusters(texts: Iterable[str]) -> Clusters:
    """Texts that are the same to the byte."""
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    clusters, seen = Clusters(len(hashes)), dict[bytes, int]()
    for number, key in enumerate(hashes):
        clusters.join(seen.setdefault(key, number), number)
    return clusters


def near_clusters(texts: Sequence[str], similarity: float, advance: Callable[[int], None] = lambda size: None) -> Clusters:
    """Texts joined by pairs at least ``similarity`` alike. ``advance`` is told the size of each text that was read."""
    sets: list[Hashes] = []
    for text in texts:
        sets.append(shingles(text))
        advance(len(text))
    clusters = Clusters(len(texts))
    if not sets:
        return clusters
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sets])]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, PERMUTATIONS, _SEED)
    signatures = np.array(matrix.to_rows(), np.uint32)
    compared: set[tuple[int, int]] = set()
    for bucket in _buckets(signatures, rows_per_band(similarity)):
        for place, two in enumerate(bucket):
            for one in bucket[:place]:
                if clusters.first(one) == clusters.first(two) or (one, two) in compared:
                    continue
                compared.add((one, two))
                if jaccard(sets[one], sets[two]) >= similarity:
                    clusters.join(one, two)
    return clusters


def shingles(text: str) -> Hashes:
    """The set of the text's word 5-grams as sorted 64-bit hashes, case folded; of a shorter text, the one hash of what it has."""
    folded = text.encode("utf-8", "surrogatepass").translate(_FOLD)
    codes = np.frombuffer(folded, np.uint8)
    inside = np.concatenate([[False], codes != 0, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):  # no word: all that it has is its signs
        return np.frombuffer(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], np.uint64)
    # A word's hash is sum(byte * odd ** position) mod 2 ** 64, moved to position 0: differences of one running sum.
    powers, inverses = _powers(_ODD, len(codes)), _powers(_INVERSE, len(codes))
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes.astype(np.uint64) * powers, dtype=np.uint64)])
    words = _mix((running[ends] - running[starts]) * inverses[starts])
    size = min(WORDS, len(words))
    grams = np.zeros(len(words) - size + 1, np.uint64)
    for place in range(size):
        grams = _mix(grams * np.uint64(_ODD) + words[place : len(words) - size + 1 + place])
    return np.unique(grams)


def jaccard(one: Hashes, two: Hashes) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / (len(one) + len(two) - common)


def rows_per_band(similarity: float) -> int:
    """The most rows per band with which a pair at ``similarity`` shares no band in less than one case in 10,000."""
    fits = [rows for rows in (1, 2, 4, 8, 16) if (1 - similarity**rows) ** (PERMUTATIONS // rows) < _MISSED]
    return max(fits)


def _buckets(signatures: npt.NDArray[np.uint32], rows: int) -> Iterable[list[int]]:
    """Groups of two and more texts that agree in all of a band."""
    for start in range(0, PERMUTATIONS, rows):
        band = np.ascontiguousarray(signatures[:, start : start + rows]).view(np.dtype((np.void, 4 * rows))).ravel()
        groups: dict[bytes, list[int]] = {}
        for number, key in enumerate(band):  # each an np.void
            groups.setdefault(key.tobytes(), []).append(number)
        yield from (group for group in groups.values() if len(group) > 1)


_tables: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """base ** 0, 1, 2, ... mod 2 ** 64."""
    table = _tables.get(base)
    if table is None or len(table) < count:
        size = max(1 << 16, 1 << count.bit_length())
        table = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(size - 1, base, np.uint64)]), dtype=np.uint64)
        _tables[base] = table
    return table[:count]


def _mix(values: Hashes) -> Hashes:
    """The finalizer of MurmurHash3: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))
