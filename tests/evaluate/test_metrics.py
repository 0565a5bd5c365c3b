"""Figures and intervals against closed forms and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.evaluate.gate import judge
from treadle.evaluate.metrics import Figure, Scores, figures, interval, weights
from treadle.spec.stages import Evaluate


def some(documents: int, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 50, documents).astype(float)
    return Scores(tokens * random.normal(2, 0.3, documents), np.floor(tokens * 0.4), tokens, tokens * 3)


def test_values_are_their_definitions():
    scores = some(20)
    found = figures(scores, weights(20, 200, 0))
    loss = scores.nats.sum() / scores.tokens.sum()
    assert found["loss"].value == pytest.approx(loss)
    assert found["perplexity"].value == pytest.approx(math.exp(loss))
    assert found["bits_per_byte"].value == pytest.approx(scores.nats.sum() / math.log(2) / scores.bytes.sum())
    assert found["accuracy"].value == pytest.approx(scores.correct.sum() / scores.tokens.sum())
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())
    assert found["perplexity"].low == pytest.approx(math.exp(found["loss"].low))


def test_the_interval_holds_the_truth_about_95_times_in_100():
    truth, hits = 2.0, 0
    for seed in range(300):
        found = figures(some(40, seed), weights(40, 400, seed))["loss"]
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 300 <= 0.98


@given(st.integers(1, 30), st.integers(0, 100))
def test_each_resample_draws_as_many_documents_as_there_are(documents: int, seed: int):
    drawn = weights(documents, 100, seed)
    assert drawn.shape == (100, documents)
    assert (drawn.sum(1) == documents).all()
    assert np.array_equal(drawn, weights(documents, 100, seed))


def test_one_document_gives_a_point():
    found = figures(some(1), weights(1, 100, 0))["loss"]
    assert found.low == found.value == found.high


def test_the_interval_is_the_percentiles():
    assert interval(5.0, np.arange(1001.0)) == Figure(5.0, 25.0, 975.0)


@pytest.mark.parametrize(("bound", "passed"), [("<= 2.2", True), ("<= 2.05", False), (">= 1.8", True), (">= 1.95", False)])
def test_the_gate_asks_the_whole_interval(bound: str, passed: bool):
    settings = Evaluate.model_validate({"gate": {"bits_per_byte": bound}})
    row = judge(settings, {"language": {"bits_per_byte": Figure(2.0, 1.9, 2.1)}})[0]
    assert row["passed"] is passed
    assert (row["metric"], row["bound"], row["high"]) == ("bits_per_byte", bound, 2.1)
