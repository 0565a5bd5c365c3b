"""AdamW step by step against its paper in float64, and what all optimisers share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn

from treadle.core.errors import UserError
from treadle.optim.make import make_optimizer
from treadle.optim.optimizer import Optimizer
from treadle.spec.train import Train


def make_adamw(parameters: Iterable[tuple[str, nn.Parameter]], rate: float, decay: float) -> Optimizer:
    return make_optimizer(parameters, Train(weight_decay=decay), rate)


def test_adamw_is_algorithm_2_with_decay_on_matrices_only():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    optimizer = make_adamw(layer.named_parameters(), 0.01, 0.1)
    state = {n: (p.detach().double().numpy().copy(), 0.0, 0.0) for n, p in layer.named_parameters()}
    for step in range(1, 21):
        x = torch.randn(4, 5)
        (layer(x) ** 2).mean().backward()
        for name, p in layer.named_parameters():
            value, m, v = state[name]
            g = p.grad.double().numpy()
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            decay = 0.1 if name == "weight" else 0.0
            value = value - 0.01 * decay * value - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
            state[name] = (value, m, v)
        optimizer.update(None)
        for name, p in layer.named_parameters():
            assert np.allclose(p.detach().numpy(), state[name][0], atol=1e-6)


def test_frozen_parameters_are_left_alone():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    optimizer = make_adamw(layer.named_parameters(), 0.1, 0.1)
    assert sum(len(group.params) for group in optimizer.param_groups) == 1


@pytest.mark.parametrize("limit", [None, 1e9, 0.1])
def test_clipping_is_that_of_torch(limit: float | None):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    optimizer, reference = make_adamw(ours.named_parameters(), 0.01, 0.1), torch.optim.AdamW(groups, 0.01, (0.9, 0.95))
    for _ in range(5):
        x = torch.randn(4, 5)
        for layer in (ours, theirs):
            (layer(x) ** 2).sum().backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), math.inf if limit is None else limit)
        reference.step()
        reference.zero_grad()
        assert optimizer.update(limit) == pytest.approx(norm.item(), rel=1e-6)
        assert all(p.grad is None for p in ours.parameters())
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-7)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-7)


def test_a_gradient_that_is_not_finite_changes_nothing():
    layer = nn.Linear(2, 2)
    optimizer = make_adamw(layer.named_parameters(), 0.1, 0.1)
    before = layer.weight.detach().clone()
    layer(torch.tensor([[1.0, math.inf]])).sum().backward()
    assert not math.isfinite(optimizer.update(1.0))
    assert torch.equal(layer.weight, before)


def test_what_has_no_gradient_waits_and_counts_its_own_steps():
    one, two = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    late = nn.Parameter(torch.ones(2, 2))
    optimizer = make_adamw([("one", one), ("two", two)], 0.1, 0.0)
    alone = make_adamw([("late", late)], 0.1, 0.0)
    one.grad = torch.full((2, 2), 0.5)
    optimizer.update(None)
    assert torch.equal(two, torch.ones(2, 2))
    two.grad, late.grad = torch.full((2, 2), 0.5), torch.full((2, 2), 0.5)
    optimizer.update(None)
    alone.update(None)
    assert torch.equal(two, late)


def test_a_restored_optimiser_goes_on_alike():
    torch.manual_seed(0)
    layer, copy, x = nn.Linear(3, 3), nn.Linear(3, 3), torch.randn(4, 3)
    first = make_adamw(layer.named_parameters(), 0.1, 0.1)
    for _ in range(3):
        layer(x).square().sum().backward()
        first.update(1.0)
    copy.load_state_dict(layer.state_dict())
    second = make_adamw(copy.named_parameters(), 0.1, 0.1)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for net, optimizer in ((layer, first), (copy, second)):
        net(x).square().sum().backward()
        optimizer.update(1.0)
    assert torch.equal(layer.weight, copy.weight)


def groups_of(settings: object) -> dict[str, tuple[float, float]]:
    """Parameter's name -> its rate and its weight decay."""
    net = nn.ModuleDict({"inputs": nn.Linear(2, 2), "trunk": nn.Linear(2, 2), "heads": nn.Linear(2, 2)})
    names = {id(p): name for name, p in net.named_parameters()}
    optimizer = make_optimizer(net.named_parameters(), Train.model_validate({"groups": settings}), 0.5)
    return {names[id(p)]: (group.lr, group.weight_decay) for group in optimizer.param_groups for p in group.params}


def test_groups_have_their_own_rate_and_decay_and_the_first_match_counts():
    found = groups_of({"inputs.weight": {"rate": 0.1}, "inputs.*": {"rate": 0}, "heads.*": {"rate": 4, "weight_decay": 0.3}})
    assert found == {
        "inputs.weight": (0.05, 0.1), "trunk.weight": (0.5, 0.1), "trunk.bias": (0.5, 0.0), "heads.weight": (2.0, 0.3),
        "heads.bias": (2.0, 0.3),
    }


@pytest.mark.parametrize("settings", [{"trunks.*": {}}, {"*": {}, "heads.*": {"rate": 2}}])
def test_a_group_that_counts_for_nothing_is_refused(settings: dict[str, object]):
    with pytest.raises(UserError, match=f"{next(reversed(settings)).replace('*', '.')}' counts for no parameter") as caught:
        groups_of(settings)
    assert "'inputs.weight'" in caught.value.cure
