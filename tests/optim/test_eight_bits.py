"""What optimisers remember in 8 bits: codes, a slow reference in float64, bytes, and a small training beside float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from treadle.optim.eight_bits import SMALL, pack, unpack
from treadle.optim.make import make_optimizer
from treadle.optim.optimizer import Optimizer
from treadle.plan.counting import disk_bytes, train_memory
from treadle.spec.optimizers import Optimizer as Settings
from treadle.spec.shape import Shape
from treadle.spec.train import Train

WAYS: list[dict[str, Any]] = [{"adamw": {"bits": 8}}, {"adam": {"bits": 8}}, {"lion": {"bits": 8}}, {"sgd": {"bits": 8}}]


def as_in_float32(settings: dict[str, Any]) -> dict[str, Any]:
    return {kind: {**given, "bits": 32} for kind, given in settings.items()}


@given(st.integers(0, 10_000), st.floats(1e-12, 1e12), st.booleans())
def test_codes_tell_the_root_of_each_share(seed: int, size: float, signed: bool):
    """Also where a block is 0, and in float64 where numbers span more than float32 tells apart."""
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.standard_normal((5, 256)) * 10.0 ** draw.uniform(-9, 0, (5, 256)) * size)
    x[2] = 0
    x = x if signed else x.abs()
    codes, scale = torch.zeros(5, 256, dtype=torch.int8 if signed else torch.uint8), torch.zeros(5, 1, dtype=torch.float64)
    pack(x.clone(), codes, scale)
    found, top = unpack(codes, scale), x.abs().amax(1, keepdim=True)
    root, steps = (0.5, 127) if signed else (0.25, 255)
    shares, theirs = ((tensor.abs() / top.clamp(min=1e-300)).double() ** root for tensor in (x, found))
    assert (shares - theirs).abs().max() <= 0.5 / steps + 1e-9
    assert (found * x >= 0).all()
    torch.testing.assert_close(found.abs().amax(1, keepdim=True), top, rtol=1e-12, atol=0)
    assert (found[2] == 0).all()


def coded(x: np.ndarray, root: float, steps: int) -> np.ndarray:
    """Blocks of 256, each number as its code tells it."""
    blocks = np.zeros(-(-x.size // 256) * 256)
    blocks[: x.size] = x
    blocks = blocks.reshape(-1, 256)
    top = np.abs(blocks).max(1, keepdims=True)
    codes = np.round((np.abs(blocks) / np.where(top > 0, top, 1)) ** root * steps)
    return (np.sign(blocks) * (codes / steps) ** (1 / root) * top).reshape(-1)[: x.size]


def gradient(step: int, count: int) -> np.ndarray:
    draw = np.random.default_rng(step)
    return draw.standard_normal(count) * 10.0 ** draw.uniform(-3, 0, count)


def test_adamw_is_that_of_its_paper_between_codes():
    """Of a matrix in several parts, whose last block is not full."""
    shape, rate = (551, 1000), 0.01
    w = np.random.default_rng(9).standard_normal(shape).reshape(-1)
    p = nn.Parameter(torch.from_numpy(w.reshape(shape).copy()))
    optimizer = make_optimizer([("w", p)], Train.model_validate({"optimizer": WAYS[0], "weight_decay": 0.1}), rate)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 7):
        g = gradient(step, w.size)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w = w * (1 - 0.1 * rate) - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
        m, v = coded(m, 0.5, 127), coded(v, 0.25, 255)
        p.grad = torch.from_numpy(g.reshape(shape))
        optimizer.update(None)
        np.testing.assert_allclose(p.detach().numpy().reshape(-1), w, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("no_kernels")  # which have no 8 bits
def test_small_parameters_are_those_of_float32_bit_for_bit_and_large_ones_nearly():
    found = {}
    for bits in (8, 32):
        torch.manual_seed(0)
        net = nn.Linear(64, 80)
        optimizer = make_optimizer(net.named_parameters(), Train.model_validate({"optimizer": {"adamw": {"bits": bits}}}), 0.01)
        for step in range(20):
            net.weight.grad = torch.from_numpy(gradient(step, 5120).reshape(80, 64)).float()
            net.bias.grad = torch.from_numpy(gradient(step, 80)).float()
            optimizer.update(1.0)
        found[bits] = net
    assert torch.equal(found[8].bias, found[32].bias)
    assert not torch.equal(found[8].weight, found[32].weight)
    torch.testing.assert_close(found[8].weight, found[32].weight, rtol=0, atol=0.02)


def walk(optimizer: Optimizer, p: nn.Parameter, begin: int, end: int) -> None:
    for step in range(begin, end):
        p.grad = torch.from_numpy(gradient(step, p.numel())).float().view_as(p)
        optimizer.update(1.0)


@pytest.mark.parametrize("settings", WAYS, ids=lambda settings: next(iter(settings)))
def test_going_on_from_what_was_kept_is_the_same_bit_for_bit(settings: dict[str, Any]):
    whole, cut, plain = (nn.Parameter(torch.zeros(70, 90)) for _ in range(3))

    def made(p: nn.Parameter, how: dict[str, Any] = settings) -> Optimizer:
        return make_optimizer([("w", p)], Train.model_validate({"optimizer": how}), 0.01)

    walk(made(whole), whole, 0, 12)
    before = made(cut)
    walk(before, cut, 0, 5)
    kept = {name: tensor.clone() for name, tensor in before.tensors().items()}
    after = made(cut)
    after.restore(kept)
    walk(after, cut, 5, 12)
    assert torch.equal(whole, cut)
    walk(made(plain, as_in_float32(settings)), plain, 0, 12)
    assert not torch.equal(whole, plain)


@pytest.mark.parametrize("settings", WAYS, ids=lambda settings: next(iter(settings)))
def test_it_takes_a_quarter_of_the_bytes_and_the_plan_says_so(settings: dict[str, Any]):
    p = nn.Parameter(torch.zeros(300, 400))
    held = {}
    for how in (settings, as_in_float32(settings)):
        optimizer = make_optimizer([("w", p)], Train.model_validate({"optimizer": how}), 0.01)
        held[str(how)] = sum(tensor.nbytes for tensor in optimizer.tensors().values())
        copies = Settings.model_validate(how).copies
        assert 4 * copies * p.numel() == pytest.approx(held[str(how)], rel=1e-3)
    few, many = held.values()
    assert 0.25 < few / many < 0.26
    shape = Shape(vocabulary=512, context=64, depth=2, width=128, heads=4, kv_heads=2, head_dim=32, hidden=352)
    eight, usual = (Train.model_validate({"optimizer": how}).copies for how in (settings, as_in_float32(settings)))
    saved = train_memory(shape, 4, copies=usual).total - train_memory(shape, 4, copies=eight).total
    assert saved == pytest.approx(2 * 4 * shape.parameters * (usual - eight), abs=4)  # in use, and the copy for a checkpoint
    assert disk_bytes(shape, 0, 0, 2, "none", eight)["checkpoints"] < disk_bytes(shape, 0, 0, 2, "none", usual)["checkpoints"]


@pytest.mark.parametrize("settings", WAYS, ids=lambda settings: next(iter(settings)))
def test_a_small_net_learns_as_well_as_with_float32(settings: dict[str, Any]):
    """Noisy values of a small random net, to be learned by a larger one whose matrices are all held in 8 bits."""
    losses = {}
    for how in (settings, as_in_float32(settings)):
        torch.manual_seed(1)
        teacher = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1)).requires_grad_(False)
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
        assert sum(p.numel() for p in net.parameters() if p.numel() >= SMALL) > 0.95 * sum(p.numel() for p in net.parameters())
        rate = 0.003 * Settings.model_validate(how).rate
        optimizer = make_optimizer(net.named_parameters(), Train.model_validate({"optimizer": how, "weight_decay": 0.0}), rate)
        for step in range(400):
            for group in optimizer.param_groups:
                group.lr = rate * (1 - step / 400)
            x = torch.randn(64, 64)
            (net(x) - teacher(x) - 0.05 * torch.randn(64, 1)).square().mean().backward()
            optimizer.update(1.0)
        x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            losses[str(how)] = float((net(x) - teacher(x)).square().mean()) / float(teacher(x).var())
    eight, usual = losses.values()
    print(f"{eight:.5f} beside {usual:.5f}")
    assert usual < 0.2
    assert eight < 1.05 * usual


def test_eight_bits_of_nothing_are_refused():
    with pytest.raises(ValidationError, match="'momentum' is 0"):
        Settings.model_validate({"sgd": {"momentum": 0, "bits": 8}})
