"""Which of two is better, judged while the answers come in: a test that may be looked at after every one of them.

Each rating (good or not) of one side is paired with one of the other; where only one of a pair did well, that side has a *win*.
If both sides are equally good, a win of either is as likely, whatever share of ratings is good: Wald, Sequential Analysis (1947),
chapter 6. How far wins and losses are from a fair coin is told by a mixture of likelihood ratios (Robbins 1970, "Statistical
methods related to the law of the iterated logarithm", section 1; as the mixture SPRT of Johari, Koomen, Pekelis and Walsh 2022,
"Always valid inference: continuous monitoring of A/B tests", section 4). By Ville's inequality the chance that it ever passes
1/alpha is at most alpha, however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Winner = Literal["candidate", "live"]

_MOST = 100_000
"""Pairs beyond which a forecast says nothing."""
_KEPT = 1000
"""Ratings that wait for a partner; older ones are let go, since the world changes."""


@dataclass
class Pairs:
    """Ratings in pairs, as they come in. Which are paired depends on their order alone, never on what they say: each with the
    newest one of the other side that has no partner yet, so that both are of about the same time."""

    wins: int = 0
    """Pairs in which the candidate alone did well."""
    losses: int = 0
    """Pairs in which the live version alone did well."""
    even: int = 0
    """Pairs in which both did, or neither."""
    _waiting: list[tuple[bool, bool]] = field(default_factory=list)

    @classmethod
    def of(cls, ratings: Iterable[tuple[bool, bool]]) -> Pairs:
        """From (whether it is the candidate's, whether it is good), oldest first."""
        pairs = cls()
        for candidate, good in ratings:
            pairs.add(candidate, good)
        return pairs

    def add(self, candidate: bool, good: bool) -> None:
        if not self._waiting or self._waiting[-1][0] == candidate:
            self._waiting.append((candidate, good))
            del self._waiting[:-_KEPT]
            return
        other = self._waiting.pop()[1]
        if good == other:
            self.even += 1
        elif good == candidate:  # the candidate's is good, or the live version's is not
            self.wins += 1
        else:
            self.losses += 1


def log_evidence(wins: int, losses: int) -> float:
    """Log of the evidence that a win is likelier than a loss: the mean likelihood ratio, to a fair coin, of coins that show a win
    with a probability drawn uniformly from 1/2 to 1.

    Where a win is no likelier than a loss, its expectation is at most 1 after any number of pairs. The integral
    ``2^(n+1) * integral from 1/2 to 1 of p^wins (1-p)^losses`` is, for whole numbers, ``sum of C(n+1, k) for k <= wins``, over
    ``(n+1) C(n, wins)``.
    """
    n = wins + losses
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 2)))])  # (n + 2,): log k!
    terms = logs[n + 1] - logs[: wins + 1] - logs[n + 1 - np.arange(wins + 1)]  # (wins + 1,): log C(n + 1, k)
    top = terms.max()
    total = top + math.log(np.exp(terms - top).sum())
    return float(total - math.log(n + 1) - (logs[n] - logs[wins] - logs[losses]))


def winner(wins: int, losses: int, alpha: float) -> Winner | None:
    """Who is better, or None while that is not known. With equally good sides the chance that it ever names one is at most
    ``alpha``, and the chance that it ever names the worse of two at most half of that."""
    bound = math.log(2 / alpha)
    if log_evidence(wins, losses) >= bound:
        return "candidate"
    return "live" if log_evidence(losses, wins) >= bound else None


def pairs_needed(wins: int, losses: int, alpha: float) -> int | None:
    """How many more pairs with a win or a loss it takes until the winner is known, if wins and losses go on in this proportion;
    0: it is known; None: no end can be seen."""
    n = wins + losses
    if n == 0 or wins == losses:
        return None
    share, bound = max(wins, losses) / n, math.log(2 / alpha)

    def known(count: int) -> bool:
        more = round(count * share)
        return log_evidence(more, count - more) >= bound

    if known(n):
        return 0
    low, high = n, 2 * n
    while not known(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if known(middle) else (middle, high)
    return high - n


def rate_interval(good: int, bad: int, alpha: float = 0.05) -> tuple[float, float]:
    """An interval for the share of good ones that may be looked at after each of them: the chance that it ever misses the true
    share is at most ``alpha``. All shares whose likelihood is over ``alpha`` of the mean likelihood (Robbins 1970, section 1)."""
    n = good + bad
    if n == 0:
        return 0.0, 1.0
    mean = math.lgamma(good + 1) + math.lgamma(bad + 1) - math.lgamma(n + 2)  # log of the integral of p^good (1-p)^bad

    def inside(p: float) -> bool:
        return mean - (good * math.log(p) if good else 0.0) - (bad * math.log1p(-p) if bad else 0.0) < -math.log(alpha)

    def edge(outer: float, inner: float) -> float:
        for _ in range(60):
            middle = (outer + inner) / 2
            outer, inner = (outer, middle) if inside(middle) else (middle, inner)
        return (outer + inner) / 2

    best = good / n
    return (edge(0.0, best) if good else 0.0), (edge(1.0, best) if bad else 1.0)
