"""Rates over a run against their formulas and torch's own schedulers, and averages of weights against theirs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel

from treadle.optim.average import WeightAverage
from treadle.optim.schedule import rate
from treadle.spec.schedules import Average, Schedule

KINDS: list[object] = [
    "linear", "cosine", "constant", "steps", "one_cycle", "stable", {"stable": {"shape": "linear"}},
    {"stable": {"shape": "cosine"}}, "plateau",
]


def at(progress: float, settings: object, warmup: float = 0.2, final: float = 0.1, falls: int = 0) -> float:
    return rate(progress, 1.0, warmup, final, Schedule.model_validate(settings), falls)


@given(st.floats(0, 1.5), st.floats(0.01, 0.5), st.floats(0, 0.9), st.sampled_from(KINDS), st.integers(0, 5))
def test_the_rate_stays_between_zero_and_its_peak(progress: float, warmup: float, final: float, settings: object, falls: int):
    assert 0 <= at(progress, settings, warmup, final, falls) <= 1.0 + 1e-12


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.1 + 0.9 * 0.75, 0.55, 0.1, 0.1]),
        ("cosine", [0.0, 0.5, 1.0, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)), 0.55, 0.1, 0.1]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"steps": {"every": 0.3, "factor": 0.4}}, [0.0, 0.5, 1.0, 0.4, 0.16, 0.1, 0.1]),
        ({"stable": {"fall": 0.5, "shape": "linear"}}, [0.0, 0.5, 1.0, 1.0, 0.1 + 0.9 * 0.8, 0.1, 0.1]),
        ({"stable": {"fall": 0.5}}, [0.0, 0.5, 1.0, 1.0, 0.1 + 0.9 * (1 - math.sqrt(0.2)), 0.1, 0.1]),
    ],
    ids=str,
)
def test_the_rate_rises_and_falls_as_it_is_told(settings: object, values: list[float]):
    assert [at(p, settings) for p in (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 1.2)] == pytest.approx(values)


def test_without_warmup_the_first_rate_is_the_peak():
    assert at(0.0, "linear", 0.0, 0.0) == 1.0
    assert at(0.5, "linear", 1.0, 0.0) == 0.5


def test_on_a_plateau_it_falls_each_time_and_not_below_the_last():
    assert [at(0.5, {"plateau": {"factor": 0.5}}, falls=n) for n in range(5)] == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.1])


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"steps": {"every": 0.25, "factor": 0.3}}, lambda o: StepLR(o, 1000, 0.3)),
        ("one_cycle", lambda o: OneCycleLR(o, 1.0, total_steps=4001, cycle_momentum=False)),
    ],
    ids=["steps", "one_cycle"],
)
def test_it_equals_torchs(settings: object, make: Any):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: LRScheduler = make(optimizer)
    for step in range(4000):
        assert at(step / 4000, settings, 0.0, 0.0) == pytest.approx(scheduler.get_last_lr()[0], rel=0.01, abs=1e-5), step
        optimizer.step()
        scheduler.step()


def walk(settings: object, steps: int = 20, cut: int | None = None) -> tuple[nn.Module, WeightAverage, AveragedModel, list[Any]]:
    """A network with a batch norm that moves at random, and its average; from ``cut`` on by a restored one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(net.state_dict().items(), Average.model_validate(settings))
    beside = AveragedModel(net, use_buffers=True)
    seen = []
    for step in range(steps):
        if step == cut:
            kept = {name: tensor.clone() for name, tensor in average.tensors().items()}
            average = WeightAverage(net.state_dict().items(), Average.model_validate(settings))
            average.restore(kept)
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn(p.shape)
            net(torch.randn(8, 3))
        average.update((step + 1) / steps)
        seen.append({name: tensor.clone().double() for name, tensor in net.state_dict().items()})
        if step >= steps // 2:
            beside.update_parameters(net)
    return net, average, beside, seen


def test_swa_is_the_mean_of_the_last_part_as_torch_has_it():
    _, average, beside, seen = walk({"swa": {"last": 0.5}})
    for name, mean in average.means.items():
        torch.testing.assert_close(mean, beside.module.state_dict()[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean.double(), torch.stack([s[name] for s in seen[10:]]).mean(0), rtol=1e-5, atol=1e-5)


def test_ema_is_its_formula_written_out():
    _, average, _, seen = walk({"ema": {"decay": 0.5}})
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    for name, mean in average.means.items():
        x = first[name].double()
        for step, now in enumerate(seen):
            decay = min(0.5, (1 + step) / (10 + step))
            x = decay * x + (1 - decay) * now[name]
        torch.testing.assert_close(mean.double(), x, rtol=1e-5, atol=1e-6)
    assert "1.running_mean" in average.means
    assert "1.num_batches_tracked" not in average.means


@pytest.mark.parametrize("settings", ["ema", "swa"])
@pytest.mark.parametrize("cut", [4, 16])
def test_a_restored_average_goes_on_alike(settings: str, cut: int):
    whole, gone = walk(settings)[1], walk(settings, cut=cut)[1]
    assert all(torch.equal(whole.means[name], gone.means[name]) for name in whole.means)
