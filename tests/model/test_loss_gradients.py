"""Every head's loss, value and gradient, beside the field's formulas in float64 or finite differences. N rows, C classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from treadle.core.batch import IGNORE
from treadle.core.layout import Layout
from treadle.model.heads.boxes import BoxesHead, Found
from treadle.model.heads.embedding import EmbeddingHead
from treadle.model.heads.items import Looks, NextItemHead
from treadle.model.heads.scalar import BinaryHead, ClassHead, LabelsHead, NumberHead
from treadle.model.heads.tags import TagsHead
from treadle.model.heads.tokens import TokenHead
from treadle.model.heads.transcript import TranscriptHead
from treadle.model.layers.signal import Form

N = 7
SOURCE = np.random.default_rng(0)


def number(loss: str) -> NumberHead:
    return NumberHead(Layout("number", options={"loss": loss}), Form(0, 4))


def value_and_gradient(head: Any, outputs: np.ndarray, right: torch.Tensor) -> tuple[float, np.ndarray]:
    """Of the mean over rows, which is what training descends."""
    given = torch.from_numpy(outputs).requires_grad_()
    loss = head.losses(given, right).mean()
    (gradient,) = torch.autograd.grad(loss, given)
    return loss.item(), gradient.numpy()


def test_mean_squared_error():
    """(p - y)^2 / N, and 2 (p - y) / N."""
    p, y = SOURCE.standard_normal((N, 1)), SOURCE.standard_normal(N)
    value, gradient = value_and_gradient(number("mse"), p, torch.from_numpy(y))
    assert value == pytest.approx(np.mean((p[:, 0] - y) ** 2), rel=1e-12)
    np.testing.assert_allclose(gradient[:, 0], 2 * (p[:, 0] - y) / N, rtol=1e-12)


def test_mean_absolute_error():
    p, y = SOURCE.standard_normal((N, 1)), SOURCE.standard_normal(N)
    value, gradient = value_and_gradient(number("mae"), p, torch.from_numpy(y))
    assert value == pytest.approx(np.mean(np.abs(p[:, 0] - y)), rel=1e-12)
    np.testing.assert_allclose(gradient[:, 0], np.sign(p[:, 0] - y) / N, rtol=1e-12)


def test_binary_cross_entropy():
    """-y log p - (1 - y) log(1 - p) with p = 1 / (1 + exp(-z)), and (p - y) / N."""
    z, y = 3 * SOURCE.standard_normal((N, 1)), np.array([0.0, 1, 1, 0, 1, 0, 0])
    value, gradient = value_and_gradient(BinaryHead(Layout("binary", vocabulary=2), Form(0, 4)), z, torch.from_numpy(y))
    p = 1 / (1 + np.exp(-z[:, 0]))
    assert value == pytest.approx(np.mean(-y * np.log(p) - (1 - y) * np.log(1 - p)), rel=1e-12)
    np.testing.assert_allclose(gradient[:, 0], (p - y) / N, rtol=1e-10)


def test_binary_cross_entropy_of_several_labels():
    z, y = 3 * SOURCE.standard_normal((N, 5)), SOURCE.integers(0, 2, (N, 5)).astype(np.float64)
    value, gradient = value_and_gradient(LabelsHead(Layout("labels", vocabulary=5), Form(0, 4)), z, torch.from_numpy(y))
    p = 1 / (1 + np.exp(-z))
    assert value == pytest.approx(np.mean(-y * np.log(p) - (1 - y) * np.log(1 - p)), rel=1e-12)
    np.testing.assert_allclose(gradient, (p - y) / (5 * N), rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_categorical_cross_entropy(smoothing: float):
    """-sum over classes of y log p with p the softmax of z and y the smoothed right answer, and (p - y) / N."""
    z, right = 3 * SOURCE.standard_normal((N, 4)), SOURCE.integers(0, 4, N)
    head = ClassHead(Layout("category", vocabulary=4, options={"smoothing": smoothing}), Form(0, 4))
    value, gradient = value_and_gradient(head, z, torch.from_numpy(right))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = (1 - smoothing) * np.eye(4)[right] + smoothing / 4
    assert value == pytest.approx(np.mean(-(y * np.log(p)).sum(1)), rel=1e-12)
    np.testing.assert_allclose(gradient, (p - y) / N, rtol=1e-10, atol=1e-15)


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


def tags() -> tuple[Any, torch.Tensor, torch.Tensor]:
    targets = torch.zeros(3, 6, 3, dtype=torch.int64)
    targets[0, :4, 0], targets[1, 1, 0], targets[2, :2, 0] = torch.tensor([1, 4, 5, 1]), 2, torch.tensor([3, 1])
    return TagsHead(Layout("tags", vocabulary=5, options={"marks": [0, 0]}), Form(0, 4)), drawn(3, 4, 5), targets


def transcript() -> tuple[Any, torch.Tensor, torch.Tensor]:
    return TranscriptHead(Layout("ctc", vocabulary=4), Form(0, 4)), drawn(3, 6, 4), torch.tensor([[2, 3, 2], [2, 2, 0], [3, 0, 0]])


def tokens() -> tuple[Any, torch.Tensor, torch.Tensor]:
    targets = torch.tensor([[1, IGNORE, 4, 0], [IGNORE, IGNORE, 3, IGNORE]])
    return TokenHead(Layout("text", vocabulary=5), Form(0, 4)), drawn(2, 4, 5), targets


def alike(graded: bool) -> Callable[[], tuple[Any, torch.Tensor, torch.Tensor]]:
    def made() -> tuple[Any, torch.Tensor, torch.Tensor]:
        head = EmbeddingHead(Layout("embedding", options={"temperature": 0.3, "graded": graded}), Form(0, 4))
        targets = torch.tensor([[0.5, 1, 11], [1.0, 1, 12], [0.0, 3, 13], [0.2, 4, 13]], dtype=torch.float64)
        return head, drawn(4, 2, 3) / 2, targets

    return made


@pytest.mark.parametrize("made", [tags, transcript, tokens, alike(False), alike(True)],
                         ids=["tags", "ctc", "tokens", "contrastive", "graded"])
def test_gradients_are_those_of_finite_differences(made: Callable[[], tuple[Any, torch.Tensor, torch.Tensor]]):
    """The values stand beside references of their own in the tests of each head."""
    head, outputs, targets = made()
    assert torch.autograd.gradcheck(lambda given: head.losses(given, targets).sum(), (outputs.requires_grad_(),))


def test_gradients_of_boxes_are_those_of_finite_differences():
    options = {"weight": 1.0, "queries": 4, "width": 32, "depth": 1, "threshold": 0.5}
    head = BoxesHead(Layout("boxes", vocabulary=3, options=options), Form(12, 8, (3, 4)))
    boxes = torch.from_numpy(SOURCE.uniform(0.3, 0.7, (1, 3, 4, 4))).requires_grad_()
    targets = torch.from_numpy(SOURCE.uniform(0.3, 0.7, (3, 2, 5)))
    targets[0, :, 0], targets[1, :, 0], targets[2] = torch.tensor([2.0, 1.0]), torch.tensor([3.0, 0.0]), 0.0
    logits = drawn(1, 3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: head.losses(Found(*given), targets).sum(), (logits, boxes))


@pytest.mark.parametrize("negatives", [0, 9])
def test_the_item_that_follows(negatives: int):
    """Softmax over all items that may be; with drawn ones each stands for its share of all (Jean et al. 2015, equation 8)."""
    items, width, asked = 12, 5, 4
    options = {"negatives": negatives, "repeats": False}
    head = NextItemHead(Layout("next_item", items, options=options), Form(3, width), width).train()
    vectors = torch.nn.Embedding(items, width)
    with torch.no_grad():
        vectors.weight.copy_(drawn(items, width))
        head.bias.copy_(drawn(items))
    features, right = drawn(2, 3, width).float().requires_grad_(), torch.tensor([[5, 3, 0], [11, 4, 0]])
    torch.manual_seed(3)
    loss = head.losses(Looks(features, torch.zeros(2, 3, dtype=torch.int64), vectors), right).mean()
    loss.backward()
    torch.manual_seed(3)
    others = torch.randint(2, items, (negatives,)) if negatives else torch.arange(2, items)
    x, v, b = (tensor.detach().double().requires_grad_() for tensor in (features, vectors.weight, head.bias))
    total = torch.zeros((), dtype=torch.float64)
    for row, place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        own = right[row, place]
        may = others[others != own]
        share = np.log((items - 2) / negatives) if negatives else 0.0
        scores = torch.cat([(v[own] @ x[row, place] + b[own])[None], v[may] @ x[row, place] + b[may] + share])
        total = total + (scores.exp().sum().log() - scores[0]) / asked
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    for ours, exact in ((features.grad, x.grad), (vectors.weight.grad, v.grad), (head.bias.grad, b.grad)):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
