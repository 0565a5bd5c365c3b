"""Drift: how much what comes differs from what a model was made with, and whether that is more than chance. C cells.

Both are given as counts in the same cells. Two statistics are taken of them:

- the **population stability index** (PSI), the sum of (q - p) ln(q / p) over the cells' shares p and q, with a floor of 0.1% under
  each share. Where nothing drifted it is near (1/n + 1/m) times a chi-squared of C - 1 degrees of freedom, n and m being the sizes
  (Yurdakul 2018, "Statistical Properties of Population Stability Index", section 3), so (C - 1) (1/n + 1/m) on average;
- the **Kolmogorov-Smirnov distance**, the largest difference of the shares up to any cell. It is that of the numbers themselves
  where the cells are fine, and never more; where nothing drifted it exceeds sqrt(ln(2/a) / 2 (1/n + 1/m)) with a probability of a
  at most.

A value counts as drift only where it is both large (``SOME``, ``MUCH``) and beyond what chance makes with a probability of
``ALPHA``, divided by the number of things that are looked at together (Bonferroni): then a small sample raises no alarm. From a PSI
its mean under chance is taken off before it is called large, and whether it is chance is decided by Pearson's test of homogeneity,
the cells in which few observations may be expected taken together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from treadle.data.columns import Array

Statistic = Literal["psi", "ks"]
Level = Literal["none", "some", "much"]

FLOOR = 1e-3
_LEAST = 5
ALPHA = 1e-3
SOME: dict[Statistic, float] = {"psi": 0.1, "ks": 0.1}
MUCH: dict[Statistic, float] = {"psi": 0.25, "ks": 0.2}
"""The customary bounds of a PSI; of a distance, a tenth and a fifth of all on the wrong side of some bound."""


def psi(expected: Sequence[float] | Array, observed: Sequence[float] | Array) -> float:
    """The index of two rows of counts (C,); 0 where one of them is empty. Symmetric, and never below 0."""
    p, q = (np.maximum(_shares(counts), FLOOR) for counts in (expected, observed))
    if not (np.sum(expected) and np.sum(observed)):
        return 0.0
    return float(np.sum((q - p) * np.log(q / p)))


def ks(expected: Sequence[float] | Array, observed: Sequence[float] | Array) -> float:
    """The distance of two rows of counts (C,) of ordered cells, from 0 to 1; 0 where one of them is empty."""
    if not (np.sum(expected) and np.sum(observed)):
        return 0.0
    return float(np.abs(np.cumsum(_shares(expected)) - np.cumsum(_shares(observed))).max())


def _shares(counts: Sequence[float] | Array) -> Array:
    found: Array = np.asarray(counts, np.float64)
    return found / max(float(found.sum()), 1e-300)


def psi_mean(cells: int, expected: float, observed: float) -> float:
    """What the index of ``cells`` cells is on average where nothing drifted, of samples of these sizes."""
    return (cells - 1) * (1 / expected + 1 / observed)


def surprising(p: Array, q: Array, expected: float, observed: float, alpha: float) -> bool:
    """Whether shares (C,) of samples of these sizes differ more than by chance with a probability of ``alpha``: Pearson's test of
    homogeneity, whose statistic is nearly the index over (1/n + 1/m), but keeps closer to a chi-squared in small samples."""
    both = (expected * p + observed * q) / (expected + observed)
    there = both > 0
    if there.sum() < 2:  # one cell has all, of the one as of the other
        return False
    found = float(np.sum((p - q)[there] ** 2 / both[there])) / (1 / expected + 1 / observed)
    return found > chi_squared(int(there.sum()) - 1, alpha)


def ks_bound(expected: float, observed: float, alpha: float) -> float:
    """What the distance exceeds by chance with a probability of at most ``alpha``."""
    return math.sqrt(-math.log(alpha / 2) / 2 * (1 / expected + 1 / observed))


def chi_squared(freedom: int, alpha: float) -> float:
    """What a chi-squared variable exceeds with a probability of ``alpha``: up to two degrees of freedom exactly, beyond by Wilson
    and Hilferty (1931), within 3%."""
    if freedom < 1:
        return 0.0
    if freedom <= 2:
        return NormalDist().inv_cdf(1 - alpha / 2) ** 2 if freedom == 1 else -2 * math.log(alpha)
    part = 2 / (9 * freedom)
    root: float = 1 - part + NormalDist().inv_cdf(1 - alpha) * math.sqrt(part)
    return freedom * root**3


def effective_size(lengths: Sequence[float] | Array) -> float:
    """As how many single draws clusters of these lengths count at least, such as the tokens of texts: what stands in one text is
    alike (Kish 1965, section 8.2, with a correlation of 1)."""
    known = np.asarray(lengths, np.float64)
    squares = float((known**2).sum())
    return float(known.sum()) ** 2 / squares if squares else 0.0


def merged(expected: Sequence[float] | Array, observed: Sequence[float] | Array, size: float) -> tuple[Array, Array]:
    """Both rows of counts (C,) as shares, the smallest cells made one, until each has a share of the expected that makes ``_LEAST``
    of ``size``: what smaller ones add strays further than a chi-squared does (Cochran 1954, section 2.2). Which they are must not
    follow from what was observed: the smallest of those would be chosen for being small."""
    p, q = _shares(expected), _shares(observed)
    order = np.argsort(p, kind="stable")
    together = int(np.sum(p * size < _LEAST))
    while 0 < together < len(p) and p[order[:together]].sum() * size < _LEAST:
        together += 1
    one, others = order[:together], order[together:]
    return tuple(np.append(share[others], share[one].sum()) if together else share for share in (p, q))  # type: ignore[return-value]


@dataclass(frozen=True)
class Verdict:
    """A statistic, of how many observations, and whether it is drift."""

    statistic: Statistic
    value: float
    count: int
    level: Level


def judge(
    statistic: Statistic, expected: Sequence[float] | Array, observed: Sequence[float] | Array, sizes: tuple[float, float],
    count: int, together: int = 1,
) -> Verdict:
    """Whether the ``observed`` counts (C,) drifted from the ``expected`` ones, of samples of these ``sizes``, of which the second
    came of ``count`` observations, where so many things are judged ``together``."""
    if min(sizes) <= 0:
        return Verdict(statistic, 0.0, count, "none")
    alpha = ALPHA / max(1, together)
    if statistic == "psi":
        cells = int(np.sum((np.asarray(expected) + np.asarray(observed)) > 0))
        value = psi(expected, observed)
        sure = surprising(*merged(expected, observed, min(sizes)), *sizes, alpha)
        large = value - psi_mean(cells, *sizes)
    else:
        value = large = ks(expected, observed)
        sure = value > ks_bound(*sizes, alpha)
    level: Level = "none"
    if sure and large >= SOME[statistic]:
        level = "much" if large >= MUCH[statistic] else "some"
    return Verdict(statistic, value, count, level)
