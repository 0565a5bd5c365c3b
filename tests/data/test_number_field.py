"""Numbers are scaled and cut into pieces as numpy and scikit-learn do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer, RobustScaler, StandardScaler

from treadle.data.fields.number import NumberField
from treadle.spec.inputs import Number

TRAIN = np.random.default_rng(0).gamma(1.5, 40, 3000) - 20
OTHERS = [-1000.0, -20.0, 0.0, 13.5, 60.0, 5000.0]


def fitted(values: Any, **wanted: Any) -> NumberField:
    field = NumberField("x", Number.model_validate(wanted), ("x",))
    field.fit(list(values))
    again = NumberField("x", Number.model_validate(wanted), ("x",))
    again.restore(field.state())
    assert np.array_equal(again.encode(OTHERS).values, field.encode(OTHERS).values)
    assert again.layout == field.layout
    return field


def column(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)[:, None]


def test_standard_and_robust_are_those_of_scikit_learn():
    for scale, reference in (("standard", StandardScaler()), ("robust", RobustScaler())):
        expected = reference.fit(column(TRAIN)).transform(column(OTHERS))[:, 0]
        assert fitted(TRAIN, scale=scale).encode(OTHERS).values == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_log_is_the_standard_of_a_signed_logarithm():
    def signed(values: Any) -> np.ndarray:
        return column(np.sign(values) * np.log1p(np.abs(values)))

    expected = StandardScaler().fit(signed(TRAIN)).transform(signed(OTHERS))[:, 0]
    assert fitted(TRAIN, scale="log").encode(OTHERS).values == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_quantile_is_the_normal_quantile_of_the_rank():
    reference = QuantileTransformer(n_quantiles=1001, output_distribution="normal", subsample=None).fit(column(TRAIN))
    inside = np.quantile(TRAIN, [0.01, 0.2, 0.5, 0.77, 0.99])
    found = fitted(TRAIN, scale="quantile").encode([*inside, -1e9, 1e9]).values
    assert found[:5] == pytest.approx(reference.transform(column(inside))[:, 0], abs=0.02)
    assert found[5] == pytest.approx(-found[6], rel=1e-5)
    assert 3 < found[6] < 4  # what lies beyond the train part is no further out than its ends
    all_there = fitted(TRAIN, scale="quantile").encode(list(TRAIN)).values
    assert (all_there.mean(), all_there.std()) == pytest.approx((0, 1), abs=0.02)


def test_a_frequent_value_gets_the_middle_of_its_ranks():
    values = [0.0] * 600 + list(np.linspace(1, 2, 400))
    assert fitted(values, scale="quantile").encode([0.0]).values[0] == pytest.approx(-0.524, abs=0.01)  # of rank 0.3


@pytest.mark.parametrize("scale", ["standard", "robust", "log", "quantile"])
def test_the_pieces_hold_like_shares_of_the_train_part(scale: str):
    field = fitted(TRAIN, scale=scale, bins=8)
    edges, encoded = np.array(field.layout.edges), field.encode(list(TRAIN)).values
    assert len(edges) == 9
    counts = np.histogram(encoded, edges.astype(np.float32))[0]
    assert counts == pytest.approx(np.full(8, 375), abs=4)
    cut = KBinsDiscretizer(8, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None)
    assert edges == pytest.approx(cut.fit(column(encoded)).bin_edges_[0], rel=1e-3, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-3, 3).map(float)), max_size=40),
    st.sampled_from(["standard", "robust", "log", "quantile"]), st.integers(0, 6),
)
def test_whatever_the_train_part_holds_all_is_finite_but_what_is_missing(values: list[float | None], scale: str, bins: int):
    field = fitted(values, scale=scale, bins=bins)
    encoded = field.encode([*values, None, 0.0]).values
    missing = np.array([value is None for value in [*values, None, 0.0]])
    assert np.array_equal(np.isnan(encoded), missing)
    assert np.isfinite(encoded[~missing]).all()
    edges = field.layout.edges
    assert list(edges) == sorted(set(edges))
    assert len(edges) != 1
