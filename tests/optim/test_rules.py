"""Every optimiser beside torch's own, or the paper's formulas in float64, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from treadle.optim.make import make_optimizer
from treadle.optim.matrices import orthogonal
from treadle.optim.optimizer import Optimizer
from treadle.spec.optimizers import Optimizer as Settings
from treadle.spec.train import Train

STEPS, RATE, DECAY = 12, 0.03, 0.1
SHAPES = {"trunk.matrix": (5, 3), "wide": (2, 7), "trunk.kernel": (4, 3, 2, 2), "bias": (6,)}


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    source = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=source, dtype=torch.float64)) for name, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=source, dtype=torch.float64) / (1 + step) for name, shape in SHAPES.items()}


def made(settings: object, found: dict[str, nn.Parameter]) -> Optimizer:
    return make_optimizer(found.items(), Train.model_validate({"optimizer": settings, "weight_decay": DECAY}), RATE)


def walk(optimizer: Optimizer, found: dict[str, nn.Parameter], begin: int = 0, end: int = STEPS) -> dict[str, nn.Parameter]:
    for step in range(begin, end):
        for name, g in gradients(step).items():
            found[name].grad = g.clone()
        optimizer.update(None)
    return found


def torchs(make: Callable[..., torch.optim.Optimizer], **settings: Any) -> dict[str, nn.Parameter]:
    found = parameters()
    groups = [
        {"params": [p for p in found.values() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in found.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = make(groups, lr=RATE, **settings)
    for step in range(STEPS):
        for name, g in gradients(step).items():
            found[name].grad = g.clone()
        optimizer.step()
    return found


def same(ours: dict[str, nn.Parameter], theirs: dict[str, nn.Parameter], tolerance: float = 1e-12) -> None:
    for name, p in ours.items():
        torch.testing.assert_close(p.detach(), theirs[name].detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("settings", "make", "given"),
    [
        ({"sgd": {"momentum": 0}}, torch.optim.SGD, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ({"sgd": {"nesterov": True}}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ({"rmsprop": {"alpha": 0.9, "momentum": 0.5}}, torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.95)}),
        ({"adam": {"betas": [0.8, 0.9], "eps": 0.01}}, torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 0.01}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    ],
    ids=["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop with momentum", "adam", "adam with its settings", "adamw"],
)
def test_equals_torchs_step_by_step(settings: object, make: Callable[..., torch.optim.Optimizer], given: dict[str, Any]):
    found = parameters()
    same(walk(made(settings, found), found), torchs(make, **given))


def test_adafactor_equals_torchs():
    found = parameters()
    ours = {name: p for name, p in found.items() if name != "trunk.kernel"}  # torch averages a kernel's rows apart
    optimizer, theirs = made("adafactor", ours), torchs(torch.optim.Adafactor, eps=(1e-15, 1e-3))
    for step in range(STEPS):
        for name, p in ours.items():
            p.grad = gradients(step)[name]
        optimizer.update(None)
    same(ours, theirs, 1e-9)


def test_lion_equals_its_formulas():
    found = parameters()
    walk(made("lion", found), found)
    for name, p in parameters().items():
        w, m = p.detach().numpy().copy(), np.zeros(p.shape)
        for step in range(STEPS):
            g = gradients(step)[name].numpy()
            w = w * (1 - RATE * DECAY * (p.dim() >= 2)) - RATE * np.sign(0.9 * m + 0.1 * g)
            m = 0.99 * m + 0.01 * g
        np.testing.assert_allclose(found[name].detach().numpy(), w, rtol=1e-12, atol=1e-12)


def test_schedule_free_equals_its_formulas_with_the_mean_written_out():
    found = parameters()
    optimizer = walk_varied(made({"schedule_free": {"betas": [0.8, 0.99]}}, found), found)
    final = {p.data_ptr(): x for p, x in optimizer.final()}
    for name, p in parameters().items():
        z = x = p.detach().numpy().copy()
        v, total, top = np.zeros(p.shape), 0.0, 0.0
        for step in range(STEPS):
            lr, g, y = RATE * (1 + step % 3), gradients(step)[name].numpy(), 0.2 * z + 0.8 * x
            v = 0.99 * v + 0.01 * g * g
            z = z - lr * (g / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8) + DECAY * (p.dim() >= 2) * y)
            top = max(top, lr)
            total += top**2
            x = x + top**2 / total * (z - x)
        np.testing.assert_allclose(found[name].detach().numpy(), 0.2 * z + 0.8 * x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(final[found[name].data_ptr()].numpy(), x, rtol=1e-9, atol=1e-9)


def walk_varied(optimizer: Optimizer, found: dict[str, nn.Parameter]) -> Optimizer:
    """With a rate that goes up and down."""
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group.lr = RATE * (1 + step % 3)
        walk(optimizer, found, step, step + 1)
    return optimizer


def test_muon_steps_are_orthogonal_and_the_rest_is_adamws():
    found, hidden = parameters(), {"trunk.matrix", "trunk.kernel"}
    walk(made("muon", found), found)
    beside = torchs(torch.optim.AdamW, betas=(0.9, 0.95))
    same({name: found[name] for name in found if name not in hidden}, beside)
    for name in hidden:
        p = parameters()[name].detach()
        m = torch.zeros_like(p)
        for step in range(STEPS):
            g = gradients(step)[name]
            m = 0.95 * m + 0.05 * g
            way = orthogonal((0.05 * g + 0.95 * m).flatten(1))
            p = p * (1 - RATE * DECAY) - RATE * 0.2 * max(way.shape) ** 0.5 * way.view_as(p)
        torch.testing.assert_close(found[name].detach(), p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5), (3, 4, 16)])
def test_an_orthogonal_matrix_has_singular_values_near_one_and_the_directions_of_its_own(shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, (u, _, v) = orthogonal(x), torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ y @ v.mT
    off = inside - torch.diag_embed(torch.diagonal(inside, dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-12
    assert 0.8 < torch.linalg.svdvals(y).min() <= torch.linalg.svdvals(y).max() < 1.204


@pytest.mark.parametrize(("beside", "dtype"), [(0, torch.float64), (6, torch.float64), (6, torch.float32)])
def test_singular_values_from_three_thousandths_of_the_norm_become_one_within_a_fifth(beside: int, dtype: torch.dtype):
    turn = torch.linalg.qr(torch.randn(2 + beside, 2 + beside, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    for value in torch.logspace(np.log10(0.003), -0.01, 24, dtype=torch.float64):
        rest = (1 - value**2).sqrt()  # a norm of 1
        x = torch.cat([torch.diag(torch.stack([value, rest])), torch.zeros(2, beside, dtype=torch.float64)], 1) @ turn
        found = torch.linalg.svdvals(orthogonal(x.to(dtype)).double())
        assert 0.8 < found.min() <= found.max() < 1.204


ALL: list[object] = [
    "adamw", "adam", "sgd", {"sgd": {"momentum": 0}}, "adagrad", "rmsprop", {"rmsprop": {"momentum": 0.5}}, "adafactor", "lion",
    "muon", "schedule_free",
]


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_going_on_from_what_was_kept_is_the_same_bit_for_bit(settings: object):
    whole, cut = parameters(), parameters()
    walk(made(settings, whole), whole)
    before = made(settings, cut)
    walk(before, cut, 0, 5)
    kept = {name: tensor.clone() for name, tensor in before.tensors().items()}
    after = made(settings, cut)
    after.restore(kept)
    walk(after, cut, 5)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_it_finds_the_lowest_point_of_a_bowl(settings: object):
    source = torch.Generator().manual_seed(3)
    goal, p = torch.randn(4, 4, generator=source), nn.Parameter(torch.zeros(4, 4))
    optimizer = make_optimizer([("trunk.p", p)], Train.model_validate({"optimizer": settings, "weight_decay": 0.0}), 0.1)
    first = float((p - goal).detach().square().sum())
    for step in range(400):
        for group in optimizer.param_groups:
            group.lr = 0.1 * (1 - step / 400)
        (p - goal).square().sum().backward()
        optimizer.update(None)
    assert float((p - goal).detach().square().sum()) < 0.01 * first


def test_what_has_no_gradient_stays_as_it_is():
    found = parameters()
    optimizer = made("adamw", found)
    found["bias"].grad = torch.ones(6, dtype=torch.float64)
    optimizer.update(None)
    assert torch.equal(found["wide"], parameters()["wide"])
    assert not torch.equal(found["bias"], parameters()["bias"])


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_what_it_remembers_is_what_the_plan_counts(settings: object):
    weights = {"trunk.w": nn.Parameter(torch.zeros(100, 100)), "heads.w": nn.Parameter(torch.zeros(100, 100))}
    optimizer, total = made(settings, weights), sum(p.numel() for p in weights.values())
    kept = sum(tensor.numel() for tensor in optimizer.tensors().values())
    copies = Settings.model_validate(settings).copies
    assert copies * total * (0.75 if settings == "muon" else 1) <= kept < copies * total + 500
