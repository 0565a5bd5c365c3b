"""Random numbers for changes in training: a pure function of (seed, example, which draw), all of a batch at once. B examples."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, numbers: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.float64]:
    """(B, draws) in [0, 1): row i depends on ``seed`` and ``numbers[i]`` alone. SplitMix64 (Steele, Lea and Flood 2014) at a
    counter, in place of a generator for each example."""
    start = _mix(np.array([seed & (2**64 - 1)], np.uint64) + _GAMMA)
    rows = _mix(start + (numbers.astype(np.uint64) + np.uint64(1)) * _GAMMA)  # (B,)
    words = _mix(rows[:, None] + np.arange(1, draws + 1, dtype=np.uint64) * _GAMMA)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function; products wrap around."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def point_of(group: str, seed: int) -> float:
    """A number in [0, 1) that follows from ``group`` and ``seed`` alone: what is held out stays so as data grows."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big") / 2**64
