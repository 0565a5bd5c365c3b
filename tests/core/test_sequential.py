"""The test of two versions against quadrature and enumeration, and its promise against simulation: how often it names a false
winner under looks after every rating, and how soon it names the right one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from treadle.core.sequential import Pairs, log_evidence, pairs_needed, rate_interval, winner

ALPHA = 0.05
few = st.integers(0, 40)


@given(few, few)
def test_the_evidence_is_the_mean_likelihood_ratio(wins: int, losses: int) -> None:
    ratio = lambda p: (2 * p) ** wins * (2 - 2 * p) ** losses  # noqa: E731
    mean, _ = integrate.quad(ratio, 0.5, 1.0, epsabs=0, epsrel=1e-11, points=[max(0.5, wins / max(1, wins + losses))])
    assert log_evidence(wins, losses) == pytest.approx(math.log(2 * mean), abs=1e-9)


def test_the_evidence_holds_for_many_pairs() -> None:
    """Against scipy's incomplete beta function, in logarithms."""
    for wins, losses in ((50_000, 49_000), (3000, 1000), (1000, 3000), (70_000, 0)):
        n = wins + losses
        log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
        expected = (n + 1) * math.log(2) + log_beta + stats.beta.logsf(0.5, wins + 1, losses + 1)
        assert log_evidence(wins, losses) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.45, 0.3])
def test_the_evidence_is_expected_to_be_at_most_1_where_a_win_is_no_likelier(p: float) -> None:
    for n in range(1, 13):
        expected = sum(stats.binom.pmf(k, n, p) * math.exp(log_evidence(k, n - k)) for k in range(n + 1))
        assert expected == pytest.approx(1.0, abs=1e-9) if p == 0.5 else expected < 1


def first_winners(good: tuple[float, float], share: float, looks: int, runs: int, seed: int) -> tuple[dict[str | None, int], float]:
    """Ratings come in one by one, ``share`` of them the candidate's, and after each one is looked: the winners that were named
    first, and the mean number of ratings until then."""
    random, named, count = np.random.default_rng(seed), {"candidate": 0, "live": 0, None: 0}, 0
    known: dict[tuple[int, int], str | None] = {}
    for _ in range(runs):
        candidate = random.random(looks) < share
        well = random.random(looks) < np.where(candidate, good[1], good[0])
        pairs, found = Pairs(), None
        for who, what in zip(candidate.tolist(), well.tolist(), strict=True):
            pairs.add(who, what)
            count += 1
            score = (pairs.wins, pairs.losses)
            if score not in known:
                known[score] = winner(*score, ALPHA)
            found = known[score]
            if found:
                break
        named[found] += 1
    return named, count / runs


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.5), (0.9, 0.5), (0.7, 0.2)])
def test_equal_versions_are_rarely_told_apart_however_often_one_looks(rate: float, share: float) -> None:
    runs = 400
    named, _ = first_winners((rate, rate), share, 1500, runs, seed=1)
    false = named["candidate"] + named["live"]
    # Not more than alpha: a count above this has a chance of 0.1% if the true rate is alpha.
    assert false <= stats.binom.ppf(0.999, runs, ALPHA)
    assert false > 0, "a test that never errs has no power either"


def test_the_share_of_good_ratings_may_change_with_time() -> None:
    """Both get worse together; it is not taken for a difference."""
    random, false, runs = np.random.default_rng(5), 0, 200
    for _ in range(runs):
        candidate = random.random(1200) < 0.3
        well = random.random(1200) < np.linspace(0.95, 0.3, 1200)
        pairs = Pairs()
        for who, what in zip(candidate.tolist(), well.tolist(), strict=True):
            pairs.add(who, what)
            if pairs.wins + pairs.losses and winner(pairs.wins, pairs.losses, ALPHA):
                false += 1
                break
    assert false <= stats.binom.ppf(0.999, runs, ALPHA)


@pytest.mark.parametrize(("good", "better", "most"), [
    ((0.6, 0.75), "candidate", 700), ((0.75, 0.6), "live", 700), ((0.5, 0.9), "candidate", 110), ((0.9, 0.8), "live", 1000),
])
def test_the_better_version_is_found(good: tuple[float, float], better: str, most: int) -> None:
    named, mean = first_winners(good, 0.5, 4000, 100, seed=2)
    assert named[better] >= 99
    assert mean < most


def test_pairs_depend_on_order_alone() -> None:
    """Whatever the ratings say, the same ones are paired: told by their number, in place of their goodness."""
    random = np.random.default_rng(3)
    for _ in range(50):
        arms = (random.random(40) < 0.3).tolist()
        pairs, waiting = Pairs(), []
        met = []
        for number, arm in enumerate(arms):
            before = (pairs.wins, pairs.losses, pairs.even)
            good = bool(random.random() < 0.5)
            pairs.add(arm, good)
            if waiting and waiting[-1][1] != arm:
                met.append((waiting.pop(), (number, arm, good)))
                assert (pairs.wins, pairs.losses, pairs.even) != before
            else:
                waiting.append((number, arm, good))
                assert (pairs.wins, pairs.losses, pairs.even) == before
        sides = [(a, b) if a[1] else (b, a) for a, b in met]  # (candidate, live)
        assert pairs.wins == sum(ours[2] and not theirs[2] for ours, theirs in sides)
        assert pairs.losses == sum(theirs[2] and not ours[2] for ours, theirs in sides)
        assert pairs.even == sum(theirs[2] == ours[2] for ours, theirs in sides)


def test_pairs_that_are_forecast_are_what_it_takes() -> None:
    for wins, losses in ((6, 3), (40, 25), (3, 9)):
        more = pairs_needed(wins, losses, ALPHA)
        assert more
        share, total = max(wins, losses) / (wins + losses), wins + losses + more
        for count, expected in ((total, "candidate" if wins > losses else "live"), (total * 9 // 10, None)):
            better = round(count * share)
            score = (better, count - better) if wins > losses else (count - better, better)
            assert winner(*score, ALPHA) == expected
    assert pairs_needed(30, 0, ALPHA) == 0
    assert pairs_needed(0, 0, ALPHA) is None
    assert pairs_needed(500, 500, ALPHA) is None
    assert pairs_needed(50_100, 49_900, ALPHA) is None


@given(few, few)
def test_the_interval_is_where_the_likelihood_is_over_alpha_of_the_mean_one(good: int, bad: int) -> None:
    low, high = rate_interval(good, bad, ALPHA)
    assert 0 <= low <= (good / (good + bad) if good + bad else 0.5) <= high <= 1
    mean, _ = integrate.quad(lambda p: p**good * (1 - p) ** bad, 0, 1, epsabs=0, epsrel=1e-11)
    for edge, at_end in ((low, low == 0), (high, high == 1)):
        if not at_end:
            assert mean / (edge**good * (1 - edge) ** bad) == pytest.approx(1 / ALPHA, rel=1e-6)


def test_the_interval_holds_the_true_rate_at_all_times() -> None:
    random, runs, missed = np.random.default_rng(4), 300, 0
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for _ in range(runs):
        good = bad = 0
        for well in (random.random(400) < 0.8).tolist():
            good, bad = good + well, bad + (not well)
            low, high = known.setdefault((good, bad), None) or rate_interval(good, bad, ALPHA)
            known[good, bad] = (low, high)
            if not low <= 0.8 <= high:
                missed += 1
                break
    assert missed <= stats.binom.ppf(0.999, runs, ALPHA)


def test_every_small_score_is_symmetric() -> None:
    for wins, losses in itertools.product(range(12), repeat=2):
        mirrored = {"candidate": "live", "live": "candidate", None: None}
        assert winner(wins, losses, ALPHA) == mirrored[winner(losses, wins, ALPHA)]
    assert winner(8, 0, ALPHA) == "candidate", "2^9 - 1 over 9 is more than 40"
    assert winner(7, 0, ALPHA) is None
