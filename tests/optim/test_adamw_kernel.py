"""AdamW and its clipping in one compiled kernel, beside torch's in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from treadle.core import native
from treadle.optim.make import make_optimizer
from treadle.optim.optimizer import Optimizer
from treadle.optim.rules import Adam
from treadle.spec.train import Train

RATE, DECAY = 0.03, 0.1
SHAPES = [(1, 1), (7,), (40, 33), (5000,), (3, 4, 2, 2)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    if native.compiler() is None:
        pytest.skip("needs a C compiler")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(shapes: list[tuple[int, ...]], kind: torch.dtype) -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=source).to(kind)) for shape in shapes]


def gradients(params: list[nn.Parameter], seed: int, size: float = 1.0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [(size * torch.randn(p.shape, generator=source)).to(p.dtype) for p in params]


def ours(params: list[nn.Parameter]) -> Optimizer:
    return make_optimizer([(str(number), p) for number, p in enumerate(params)], Train(weight_decay=DECAY), RATE)


def update(optimizer: Optimizer, params: list[nn.Parameter], grads: list[torch.Tensor], limit: float | None) -> float:
    """By the kernel."""
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adam, "step", lambda *given: pytest.fail("by torch"))
        return optimizer.update(limit)


@given(
    st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5), st.sampled_from([None, 1e-3, 1.0, 1e6]),
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6),
)
def test_it_is_torchs_with_clipping(shapes: list[tuple[int, ...]], limit: float | None, sizes: list[float]):
    """A rate that changes, gradients of any size; each number off by a few units in the last place of what it is made of."""
    params, wanted = parameters(shapes, torch.float32), parameters(shapes, torch.float64)
    groups = [
        {"params": [p for p in wanted if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in wanted if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer, reference = ours(params), torch.optim.AdamW([group for group in groups if group["params"]], RATE, (0.9, 0.95))
    for step, size in enumerate(sizes):
        for group in [*optimizer.param_groups, *reference.param_groups]:
            change = RATE * (1 + step % 3)
            if isinstance(group, dict):
                group["lr"] = change
            else:
                group.lr = change
        grads = gradients(params, step, size)
        norm = update(optimizer, params, grads, limit)
        for p, g in zip(wanted, grads, strict=True):
            p.grad = g.double()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(wanted, limit or math.inf)), rel=1e-6)
        reference.step()
        assert all(p.grad is None for p in params)
    for p, q in zip(params, wanted, strict=True):
        torch.testing.assert_close(p.detach().double(), q.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_changes_where_a_gradient_is_not_finite(bad: float):
    params = parameters(SHAPES, torch.float32)
    optimizer = ours(params)
    update(optimizer, params, gradients(params, 0), 1.0)
    kept = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    before, grads = [p.detach().clone() for p in params], gradients(params, 1)
    grads[3][4321] = bad
    assert not math.isfinite(update(optimizer, params, grads, 1.0))
    assert all(torch.equal(p.detach(), q) for p, q in zip(params, before, strict=True))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in optimizer.tensors().items())


def test_parameters_without_a_gradient_stay():
    params = parameters(SHAPES, torch.float32)
    optimizer, before = ours(params), [p.detach().clone() for p in params]
    params[2].grad = torch.ones(SHAPES[2])
    optimizer.update(None)
    assert [not torch.equal(p.detach(), q) for p, q in zip(params, before, strict=True)] == [False, False, True, False, False]


def test_what_does_not_fit_is_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    """float64, gradients that do not lie in order, several threads, rules that differ."""
    monkeypatch.setattr(native.Kernels, "__call__", lambda *given: pytest.fail("by the kernel"))
    for kind, turned, threads, rule in (
        (torch.float64, False, 1, "adamw"), (torch.float32, True, 1, "adamw"), (torch.float32, False, 2, "adamw"),
        (torch.float32, False, 1, "adam"), (torch.float32, False, 1, "muon"),
    ):
        params = [nn.Parameter(torch.ones(4, 6, dtype=kind)), nn.Parameter(torch.ones(3, dtype=kind))]
        named = zip(("trunk.a", "b"), params, strict=True)
        optimizer = make_optimizer(named, Train.model_validate({"optimizer": rule}), RATE)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for p in params:
            p.grad = torch.ones(p.shape[::-1], dtype=kind).t() if turned and p.dim() == 2 else torch.ones_like(p)
        optimizer.update(1.0)
        assert all(bool((p < 1).all()) for p in params)
