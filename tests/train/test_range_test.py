"""The range test: its curve, its choice, and that such a choice trains."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_loop import Counting, run

from tiny import SHAPE
from treadle.core.batch import Batch
from treadle.core.runtime import choose_runtime
from treadle.model.model import make_model
from treadle.spec.train import Train
from treadle.train.objectives import OBJECTIVES
from treadle.train.range_test import STEPS, Range, choose, range_test

FLAT = [(0.0001 * 1.1**step, 2.0) for step in range(20)]
NOISY = [(rate, loss + 0.2 * (-1) ** step) for step, (rate, loss) in enumerate(FLAT)]
PLAIN = Train.model_validate({"optimizer": {"sgd": {"momentum": 0}}, "clip": 0, "weight_decay": 0})
NAMES = ["none", "one", "no fall", "within the noise"]


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


def test_the_choice_is_a_third_of_the_rate_of_the_lowest_loss():
    curve = [*FLAT, (0.01, 1.5), (0.1, 1.0), (1.0, 3.0)]
    assert choose(curve).rate == pytest.approx(0.033)
    assert "0.1, where" in choose(curve).reason


@pytest.mark.parametrize("curve", [[], FLAT[:1], [*FLAT, (0.01, 1.99), (0.1, 5.0)], [*NOISY, (0.01, 1.6), (0.1, 5.0)]], ids=NAMES)
def test_where_the_loss_falls_at_no_rate_there_is_no_choice(curve: list[tuple[float, float]]):
    assert choose(curve).rate is None


def test_noise_in_the_first_steps_ends_no_test():
    """Losses that jump up and down by a fifth, and fall by half at the right rates."""

    class Rough(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(4))

        def loss(self, batch: Batch) -> torch.Tensor:
            return (self.weights.square().mean() + 1) * batch.inputs["x"].mean()

    def batch_at(step: int) -> Batch:
        return Batch({"x": torch.full((4,), 1 + 0.2 * (-1) ** (step // 2))}, {})

    runtime = choose_runtime("float32", 1)
    found = range_test(Rough(), lambda model, batch: model.loss(batch), batch_at, PLAIN, 0.01, runtime, 0)
    assert len(found.points) > 50
    assert found.rate is not None
