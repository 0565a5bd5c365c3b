"""Parts of a batch, one after another or side by side, are the whole batch: nothing is lost where answers are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tiny import SHAPE
from treadle.core.batch import Batch
from treadle.core.gradients import Gradients
from treadle.core.layout import Layout
from treadle.core.runtime import choose_runtime
from treadle.core.sums import LARGE, Sums
from treadle.model.model import LanguageModel, make_model
from treadle.model.network import Network, make_network
from treadle.spec.model import Model
from treadle.spec.train import Train

NUMBER = Layout("number", mean=(0.0,), deviation=(1.0,))
IMAGE = Layout("image", height=8, width=8, channels=1, mean=(0.0,), deviation=(1.0,))
TEXT = Layout("text", vocabulary=30, length=9)
CLASS = Layout("category", vocabulary=3, options={"smoothing": 0.0, "weight": 1.0})


def network(inputs: dict[str, Any], trunk: dict[str, Any], heads: dict[str, Any], **layouts: Layout) -> Network:
    parts = {"inputs": {name: layouts[name] for name in inputs}, "heads": {name: layouts[name] for name in heads}}
    return make_network(Model.model_validate({"inputs": inputs, "trunk": trunk, "heads": heads}), parts, 0)


def table() -> Network:
    return network({"x": "number"}, {"mlp": {"width": 8}}, {"y": "category"}, x=NUMBER, y=CLASS)


def numbers(rows: int) -> Batch:
    """Half the answers of the first half are missing, and none of the second."""
    draw = torch.Generator().manual_seed(0)
    answers = torch.randint(0, 3, (rows,), generator=draw)
    answers[: rows // 2 : 2] = -1
    return Batch({"x": torch.randn(rows, generator=draw)}, {"y": answers})


def pictures(rows: int) -> Batch:
    images = torch.randint(0, 255, (rows, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch({"x": images}, {"y": torch.arange(rows) % 3})


def text(rows: int) -> Batch:
    tokens = torch.randint(0, 30, (rows, 10), generator=torch.Generator().manual_seed(0))
    return Batch({"x": tokens[:, :-1]}, {"next": tokens[:, 1:]})


def conv() -> Network:
    return network({"x": {"image": {"size": 8, "grey": True}}}, {"conv": {"channels": [4]}}, {"y": "category"}, x=IMAGE, y=CLASS)


def recurrent() -> Network:
    trunk = {"recurrent": {"width": 8, "embedding": 8}}
    return network({"x": {"text": {"context": 9}}}, trunk, {"next": "next_token"}, x=TEXT, next=Layout("next_token", vocabulary=30))


KINDS = {"table": (table, numbers), "conv": (conv, pictures), "recurrent": (recurrent, text)}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_side_by_side_are_those_of_the_whole_batch(kind: str, parts: int):
    make, draw = KINDS[kind]
    whole, apart = make(), make()
    loss = whole.train().loss(draw(16))
    loss.backward()
    gradients = Gradients(apart, Network.loss, replace(choose_runtime("float32", 1), workers=2), Train(accumulate=parts))
    found = gradients(draw(16))
    gradients.close()
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for one, two in zip(whole.parameters(), apart.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


def test_a_worker_for_each_thread_where_the_rows_allow_it():
    one, two = choose_runtime("float32", 1), replace(choose_runtime("float32", 1), threads=2)
    assert two.beside(8, divisible=True).workers == 2
    assert "its own rows" in two.beside(8, divisible=True).reason
    assert [r.workers for r in (one.beside(8, True), two.beside(7, True), two.beside(8, False))] == [1, 1, 1]


def test_weights_that_change_are_those_of_every_worker():
    """A worker's model is the model's own memory, so what the optimiser changes is seen by all."""
    model = make_model(SHAPE, 0)
    gradients = Gradients(model, LanguageModel.loss, replace(choose_runtime("float32", 1), workers=2), Train())
    tokens = torch.randint(0, SHAPE.vocabulary, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch({"text": tokens[:, :-1]}, {"next": tokens[:, 1:]})
    before = gradients(batch).loss
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    after = gradients(batch).loss
    gradients.close()
    assert after == pytest.approx(model.loss(batch).item(), rel=1e-5)
    assert after != before


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_large_gradients_of_workers_are_those_of_parts_bit_for_bit(recompute: bool, tied: bool):
    shape = replace(SHAPE, vocabulary=LARGE // SHAPE.width, tie_embeddings=tied)
    tokens = torch.randint(0, shape.vocabulary, (8, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch({"text": tokens[:, :-1]}, {"next": tokens[:, 1:]})
    found = []
    for workers in (1, 2):
        model, runtime = make_model(shape, 0), replace(choose_runtime("float32", 1), workers=workers)
        gradients = Gradients(model, LanguageModel.loss, runtime, Train(accumulate=4 // workers, recompute=recompute))
        squares = [gradients(batch).square for _ in range(2)]  # the second adds to the first
        gradients.close()
        found.append([p.grad for p in model.parameters()])
    assert squares[0] is not None
    assert any(gradient is not None and gradient.numel() >= LARGE for gradient in found[0])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True) if one is not None and two is not None)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_large_gradients_are_added_up_as_they_come_whoever_is_late(late: int):
    """Of three workers one is last at every gradient: the sum is bit for bit that of their order, and no copy is left behind."""
    draw = torch.Generator().manual_seed(0)
    models = [torch.nn.Linear(LARGE // 64, 64) for _ in range(3)]
    given = [[torch.randn(p.shape, generator=draw) for p in model.parameters()] for model in models]
    sums = Sums(models)
    for _ in range(2):
        sums.begin(measured=True)
        for worker in sorted(range(3), key=lambda worker: (worker == late, -worker)):
            sum((p * g).sum() for p, g in zip(models[worker].parameters(), given[worker], strict=True)).backward()
        large = models[0].weight
        assert torch.equal(large.grad, given[0][0] + given[1][0] + given[2][0])
        assert [model.weight.grad for model in models[1:]] == [None, None]
        assert models[2].bias.grad is not None  # a small one waits
        sums.finish()
        assert torch.equal(models[0].bias.grad, given[0][1] + given[1][1] + given[2][1])
        assert models[2].bias.grad is None
        squares = [sum(float(g.double().square().sum()) for g in one) for one in given]
        assert sums.mean_square([1.0, 0.5, 2.0]) == pytest.approx((squares[0] + 4 * squares[1] + squares[2] / 4) / 3, rel=1e-6)
        models[0].zero_grad()
    sums.close()
    sum(p.sum() for p in models[1].parameters()).backward()
    assert models[1].weight.grad is not None


def test_a_gradient_that_comes_in_two_goes_is_not_left_for_the_next_step():
    models = [torch.nn.Linear(LARGE, 1, bias=False) for _ in range(2)]
    sums = Sums(models)
    sums.begin(measured=False)
    for model in (models[0], models[1], models[1]):
        model.weight.sum().backward()
    sums.finish()
    sums.close()
    assert torch.equal(models[0].weight.grad, torch.full((1, LARGE), 3.0))
    assert models[1].weight.grad is None
