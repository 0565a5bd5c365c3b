"""The range test: its curve, its choice, and that such a choice trains."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_loop import Counting, run

from tiny import SHAPE
from treadle.core.runtime import choose_runtime
from treadle.model.model import make_model
from treadle.spec.train import Train
from treadle.train.objectives import OBJECTIVES
from treadle.train.range_test import STEPS, Range, choose, range_test


def curve_of(around: float, **settings: object) -> Range:
    given = Train.model_validate(settings)
    return range_test(
        make_model(SHAPE, 0), OBJECTIVES["next_token"], lambda step: Counting().batch_at(step, 8), given, around,
        choose_runtime("float32", 1), 0,
    )


def test_it_gives_a_rate_that_learns_from_wherever_it_starts(tmp_path: Path):
    """From a tenth and ten times the usual rate the same order is found, and a short run with it learns as the usual one does."""
    found = [curve_of(around) for around in (0.001, 0.01, 0.1)]
    for one in found:
        assert one.rate is not None
        assert 0.002 <= one.rate <= 0.08
    assert found[1].rate is not None
    _, chosen = run(tmp_path / "chosen", budget="100 steps", rate=found[1].rate)
    _, tiny = run(tmp_path / "tiny", budget="100 steps", rate=found[1].rate / 100)
    assert chosen.validations[-1][1] < 1.5 < tiny.validations[-1][1]


def test_it_is_a_pure_function_and_leaves_the_random_state():
    model, runtime = make_model(SHAPE, 0), choose_runtime("float32", 1)
    before = torch.get_rng_state()
    one = range_test(model, OBJECTIVES["next_token"], lambda step: Counting().batch_at(step, 8), Train(), 0.01, runtime, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert curve_of(0.01) == one


def test_the_rate_rises_evenly_and_ends_when_training_blows_up():
    found = curve_of(0.01, optimizer="sgd", clip=0)
    rates = [rate for rate, _ in found.points]
    assert rates == sorted(rates)
    steps = [later / before for before, later in pairwise(rates)]
    assert max(steps) == pytest.approx(min(steps), rel=0.01)
    assert 10 < len(rates) < STEPS


@pytest.mark.parametrize("change", [{"optimizer": "sgd"}, {"clip": 0.01}, {"accumulate": 2}], ids=str)
def test_what_makes_a_step_makes_the_curve(change: dict[str, object]):
    assert curve_of(0.01, **change).points != curve_of(0.01).points


def test_the_choice_is_a_tenth_of_the_rate_of_the_lowest_loss():
    curve = [(0.001, 2.0), (0.01, 1.5), (0.1, 1.0), (1.0, 3.0)]
    assert choose(curve).rate == pytest.approx(0.01)
    assert "0.1, where" in choose(curve).reason


@pytest.mark.parametrize("curve", [[], [(0.001, 2.0)], [(0.001, 2.0), (0.01, 1.999), (0.1, 5.0)]], ids=["none", "one", "no fall"])
def test_where_the_loss_falls_at_no_rate_there_is_no_choice(curve: list[tuple[float, float]]):
    assert choose(curve).rate is None
