"""Drift statistics against scipy and arithmetic, and that chance alone raises no alarm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from treadle.core.errors import ArtifactError
from treadle.data import drift
from treadle.data.columns import Column, ragged
from treadle.data.drift import chi_squared, effective_size, judge, ks, ks_bound, merged, psi, psi_mean, surprising
from treadle.data.reference import (
    FILE,
    LEAST,
    Reference,
    Seen,
    load_references,
    save_references,
    seen_tokens,
    thinned,
)

COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=30)


def test_psi_is_the_sum_over_the_cells() -> None:
    # (0.3 - 0.2) ln 1.5 + (0.2 - 0.3) ln (2/3) + 0
    assert psi([20, 30, 50], [30, 20, 50]) == pytest.approx(0.2 * math.log(1.5))
    assert psi([200, 300, 500], [30, 20, 50]) == pytest.approx(0.2 * math.log(1.5))  # shares count, not sizes
    # A cell that only one side has counts as a tenth of a percent there.
    assert psi([100, 0], [80, 20]) == pytest.approx(-0.2 * math.log(0.8) + 0.199 * math.log(200))
    assert psi([0, 0], [3, 4]) == psi([3, 4], [0, 0]) == 0.0


@given(COUNTS, st.data())
def test_psi_and_ks_are_distances(one: list[int], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(0, 10_000), min_size=len(one), max_size=len(one)))
    for distance in (psi, ks):
        found = distance(one, other)
        assert found >= 0
        assert found == pytest.approx(distance(other, one), abs=1e-12)
        assert distance(one, one) == 0
        assert distance([7 * count for count in one], other) == pytest.approx(found, abs=1e-9)
    assert ks(one, other) <= 1 + 1e-12


@pytest.mark.filterwarnings("ignore::RuntimeWarning:scipy")  # of the p-value, which is not asked for
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=120), st.lists(st.integers(-40, 40), min_size=1, max_size=120),
)
def test_ks_of_counts_is_that_of_the_samples(one: list[int], other: list[int]) -> None:
    cells = np.arange(-40, 42)
    counts = [np.histogram(sample, cells)[0] for sample in (one, other)]
    assert ks(*counts) == pytest.approx(stats.ks_2samp(one, other, method="asymp").statistic, abs=1e-12)


@given(st.lists(st.floats(-50, 50), min_size=40, max_size=200), st.lists(st.floats(-50, 50), min_size=1, max_size=120))
def test_ks_in_a_references_cells_never_exceeds_that_of_the_samples(train: list[float], later: list[float]) -> None:
    reference = Reference.of(Seen("numbers", np.array(train)))
    assert reference is not None
    found = ks(reference.counts, reference.count(np.array(later)))
    assert found <= stats.ks_2samp(train, later, method="asymp").statistic + 1e-9


@pytest.mark.parametrize("freedom", [1, 2, 5, 19, 32])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 0.00005])
def test_chi_squared_is_that_of_tables(freedom: int, alpha: float) -> None:
    assert chi_squared(freedom, alpha) == pytest.approx(stats.chi2.ppf(1 - alpha, freedom), rel=0.03)


def test_the_bounds_are_those_of_the_literature() -> None:
    assert ks_bound(1000, 200, 0.05) == pytest.approx(1.358 * math.sqrt(1200 / 200_000), rel=1e-3)
    assert psi_mean(10, 1000, 200) == pytest.approx(9 * (0.001 + 0.005))
    assert effective_size([1] * 50) == 50
    assert effective_size([100] * 5) == 5  # five texts, however long
    assert effective_size([100, 1, 1]) == pytest.approx(102**2 / 10_002)


def test_the_average_index_by_chance_is_as_stated() -> None:
    draw, shares = np.random.default_rng(0), np.full(10, 0.1)
    found = [psi(draw.multinomial(5000, shares), draw.multinomial(400, shares)) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(psi_mean(10, 5000, 400), rel=0.05)


@pytest.mark.parametrize("statistic", ["psi", "ks"])
@pytest.mark.parametrize("size", [5, 20, 50, 200, 1000])
def test_chance_alone_raises_no_alarm(statistic: drift.Statistic, size: int) -> None:
    """In 2,000 looks at samples that did not drift, of any size, with rare cells among them: no more alarms than the rule
    allows."""
    draw = np.random.default_rng(size)
    shares = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.04, 0.03, 0.02, 0.009, 0.001])
    levels = [
        judge(statistic, draw.multinomial(2000, shares), draw.multinomial(size, shares), (2000, size), size).level
        for _ in range(2000)
    ]
    assert sum(level != "none" for level in levels) <= 2 + 2000 * drift.ALPHA


@pytest.mark.parametrize("statistic", ["psi", "ks"])
def test_what_drifted_is_seen_once_there_is_enough_of_it(statistic: drift.Statistic) -> None:
    before, after = np.array([40, 30, 20, 10]), np.array([10, 20, 30, 40])
    few = judge(statistic, before * 50, after // 10, (5000, 10), 10)
    assert few.level == "none"
    assert few.value > drift.MUCH[statistic]  # large, but ten observations prove nothing
    many = judge(statistic, before * 50, after * 5, (5000, 500), 500)
    assert (many.level, many.count) == ("much", 500)
    assert many.value == pytest.approx(few.value, rel=0.05)
    slight = judge(statistic, before * 500, (before * 0.8 + after * 0.2) * 500, (50_000, 50_000), 50_000)
    assert slight.level == "none"  # beyond chance, but small
    between = judge(statistic, before * 500, (before * 0.62 + after * 0.38) * 500, (50_000, 50_000), 50_000)
    assert between.level == "some"


def test_what_chance_adds_to_an_index_is_taken_off_before_it_is_called_large() -> None:
    expected, observed = [1000] * 30, [1337, 663] * 15
    found = judge("psi", expected, observed, (30_000, 1000), 1000)
    assert found.value == pytest.approx(0.337 / 2 * math.log(1.337 / 0.663))
    assert found.value > drift.SOME["psi"] > found.value - psi_mean(30, 30_000, 1000)
    assert found.level == "none"
    assert judge("psi", expected, observed, (30_000, 5000), 5000).level == "some"  # where chance adds less


def test_more_things_that_are_looked_at_need_more_proof() -> None:
    before, after = [400, 300, 200, 100], [8, 10, 14, 16]
    sizes = (1000.0, 48.0)
    assert judge("ks", before, after, sizes, 48, together=1).level == "much"
    assert judge("ks", before, after, sizes, 48, together=10_000).level == "none"


def test_numbers_fall_into_cells_of_like_share_and_missing_ones_apart() -> None:
    values = np.concatenate([np.arange(1000.0), np.full(250, math.nan)])
    reference = Reference.of(Seen("numbers", values))
    assert reference is not None
    assert reference.counts == (250, *[50] * 20)
    assert reference.bounds[0] == pytest.approx(49.95)
    assert reference.bounds[-1] < 951  # inner quantiles: neither the least nor the largest value is told
    assert reference.count(np.array([math.nan, -1e9, 1e9])).tolist() == [1, 1, *[0] * 18, 1]
    missing = reference.judge(reference.count(np.full(100, math.nan)), 100, 100, 1)
    assert (missing.level, missing.value) == ("much", pytest.approx(0.8))


def test_many_like_values_share_a_cell() -> None:
    reference = Reference.of(Seen("numbers", np.array([0.0] * 900 + [1.5] * 100)))
    assert reference is not None
    assert sum(reference.counts) == 1000
    assert reference.count(np.zeros(7)).max() == 7
    assert ks(reference.counts, reference.count(np.array([0.0] * 90 + [1.5] * 10))) == pytest.approx(0)


def test_few_records_make_no_bounds_and_rare_names_no_cells() -> None:
    assert Reference.of(Seen("numbers", np.arange(2.0 * LEAST - 1))) is None
    names = np.array([3] * 50 + [4] * LEAST + [5] * (LEAST - 1) + [6, 2, 1, 0])
    reference = Reference.of(Seen("names", names))
    assert reference is not None
    assert reference.bounds == (3, 4)
    assert reference.counts == (1, 1, 1 + 1 + LEAST - 1, 50, LEAST)  # missing, unseen, others, and the two
    assert reference.count(np.array([99, 5, 0, 1, 2, 4])).tolist() == [1, 1, 3, 0, 1]


def test_a_text_counts_as_one_however_long_it_is() -> None:
    texts = [[5] * 300 for _ in range(30)] + [[9] * 300 for _ in range(30)]
    reference = Reference.of(seen_tokens(texts))
    assert reference is not None
    assert (reference.size, sum(reference.counts), reference.statistic) == (60, 18_000, "psi")
    assert seen_tokens([[1] * 10_000, [2]]).lengths.tolist() == [512, 1]  # no text outweighs all others
    one = seen_tokens([[9] * 300])
    assert reference.judge(reference.count(one.values), one.size, 1, 1).level == "none"
    many = seen_tokens([[9] * 300] * 80)
    assert reference.judge(reference.count(many.values), many.size, 80, 1).level == "much"


def test_evenly_spaced_rows_stand_for_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.data.reference._MOST", 3)
    assert thinned(Column(np.arange(7))).values.tolist() == [0, 3, 6]
    found = thinned(ragged([np.arange(n) for n in (1, 2, 3, 4, 5)], np.int64))
    assert np.diff(found.starts).tolist() == [1, 3, 5]
    assert found.values.tolist() == [0, *range(3), *range(5)]
    whole = Column(np.arange(3))
    assert thinned(whole) is whole


def test_references_at_rest(tmp_path: Path) -> None:
    made = Reference.of(Seen("numbers", np.random.default_rng(0).normal(size=500)))
    assert made is not None
    assert load_references(tmp_path) is None  # an earlier Treadle's package
    save_references(tmp_path, {("input", "größe"): made})
    assert load_references(tmp_path) == {("input", "größe"): made}
    found = json.loads((tmp_path / FILE).read_text())
    del found["references"][0]["bounds"]
    (tmp_path / FILE).write_text(json.dumps(found))
    with pytest.raises(ArtifactError, match=r"cannot read .*reference.json"):
        load_references(tmp_path)


@given(COUNTS, st.data(), st.floats(1, 500))
def test_merging_keeps_the_shares_and_leaves_no_small_cell(one: list[int], data: st.DataObject, size: float) -> None:
    other = data.draw(st.lists(st.integers(0, 10_000), min_size=len(one), max_size=len(one)))
    expected, observed = merged(one, other, size)
    assert len(expected) == len(observed) <= len(one)
    for found, given_ in ((expected, one), (observed, other)):
        assert found.sum() == pytest.approx(1 if sum(given_) else 0)
    if len(expected) > 1:
        assert (expected * size >= 5 - 1e-6).all()


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_what_is_surprising_is_by_scipy(alpha: float) -> None:
    draw, shares = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    agree = 0
    for _ in range(200):
        one, other = draw.multinomial(700, shares), draw.multinomial(90, shares[::-1] * 0.3 + shares * 0.7)
        p = stats.chi2_contingency(np.stack([one, other]), correction=False).pvalue
        agree += surprising(one / 700, other / 90, 700, 90, alpha) == (p < alpha)
    assert agree >= 198  # but for those at the very bound


def test_merging_by_hand() -> None:
    expected, observed = merged([50, 38, 7, 5], [40, 30, 20, 10], 65)  # 7% of 65 are less than 5
    assert expected.tolist() == pytest.approx([0.38, 0.5, 0.12])
    assert observed.tolist() == pytest.approx([0.3, 0.4, 0.3])
    expected, _ = merged([50, 38, 7, 5], [40, 30, 20, 10], 30)  # and 12% of 30 are too, so a larger one goes with them
    assert expected.tolist() == pytest.approx([0.5, 0.5])
    assert len(merged([50, 38, 7, 5], [40, 30, 20, 10], 120)[0]) == 4
    assert len(merged([1, 1], [1, 1], 4)[0]) == 1
