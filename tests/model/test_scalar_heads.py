"""Losses against their formulas in float64, and the mistakes that are often made with them. B rows, C classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.batch import IGNORE
from treadle.core.layout import Layout
from treadle.model.heads.scalar import BinaryHead, ClassHead, LabelsHead, NumberHead
from treadle.model.layers.signal import Form, Signal

FORM = Form(1, 4)
seeds = st.integers(0, 2**31 - 1)


def class_head(classes: int, smoothing: float = 0.0, weights: tuple[float, ...] = ()) -> ClassHead:
    return ClassHead(Layout("category", vocabulary=classes, weights=weights, options={"smoothing": smoothing}), FORM)


def number_head(loss: str, quantiles: tuple[float, ...] = ()) -> NumberHead:
    return NumberHead(Layout("number", options={"loss": loss, "quantiles": list(quantiles)}), FORM)


def binary_head(weights: tuple[float, ...] = ()) -> BinaryHead:
    return BinaryHead(Layout("binary", vocabulary=2, weights=weights), FORM)


def float64(x: torch.Tensor) -> Any:
    return x.detach().double().numpy()


@given(seeds, st.integers(2, 6), st.floats(0, 0.9), st.booleans())
def test_categorical_cross_entropy_with_smoothing_and_weights(seed: int, classes: int, smoothing: float, weighted: bool):
    """Szegedy et al. 2016, section 7: the target is (1 - s) of the right class and s / C of every class."""
    source = np.random.default_rng(seed)
    weights = tuple(float(w) for w in source.uniform(0.2, 3, classes)) if weighted else ()
    logits = torch.from_numpy(3 * source.standard_normal((5, classes))).float()
    right = torch.from_numpy(source.integers(0, classes, 5))
    z = float64(logits)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(classes)[right.numpy()] + smoothing / classes
    expected = -(target * log_p * np.array(weights or [1.0] * classes)).sum(1)
    assert np.allclose(float64(class_head(classes, smoothing, weights).losses(logits, right)), expected, atol=1e-5)


@given(seeds, st.booleans())
def test_binary_cross_entropy_has_both_terms(seed: int, weighted: bool):
    """-y log p - (1 - y) log(1 - p): -y log p alone would be 0 for every no."""
    source = np.random.default_rng(seed)
    no, yes = source.uniform(0.2, 3, 2) if weighted else (1.0, 1.0)
    logits = torch.from_numpy(4 * source.standard_normal((8, 1))).float()
    y = torch.tensor([0.0, 1.0] * 4)
    p, t = 1 / (1 + np.exp(-float64(logits)[:, 0])), float64(y)
    expected = -(yes * t * np.log(p) + no * (1 - t) * np.log(1 - p))
    found = float64(binary_head((float(no), float(yes)) if weighted else ()).losses(logits, y))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (found > 0).all()


@pytest.mark.parametrize(("loss", "formula"), [
    ("mse", lambda e: e**2), ("mae", np.abs), ("huber", lambda e: np.where(np.abs(e) <= 1, e**2 / 2, np.abs(e) - 0.5)),
])
def test_losses_of_numbers(loss: str, formula: Any):
    outputs, right = torch.randn(50, 1) * 3, torch.randn(50)
    expected = formula(float64(right) - float64(outputs)[:, 0])
    assert np.allclose(float64(number_head(loss).losses(outputs, right)), expected, atol=1e-5)


@given(seeds)
def test_pinball_loss(seed: int):
    """Koenker and Bassett 1978: q of what lies above, 1 - q of what lies below."""
    source, shares = np.random.default_rng(seed), (0.1, 0.5, 0.8)
    outputs, right = (torch.from_numpy(source.standard_normal(shape)).float() for shape in ((6, 3), (6,)))
    error = float64(right)[:, None] - float64(outputs)
    expected = np.where(error >= 0, np.array(shares) * error, (np.array(shares) - 1) * error).mean(1)
    assert np.allclose(float64(number_head("quantile", shares).losses(outputs, right)), expected, atol=1e-6)


def test_the_best_constant_of_each_loss_is_what_it_should_be():
    """Mean for squares, median for absolute values, the quantile for pinball: found by descent over a skewed sample."""
    sample = torch.from_numpy(np.random.default_rng(0).exponential(size=999)).float()
    for loss, shares, best in (("mse", (), sample.mean()), ("mae", (), sample.median()),
                               ("quantile", (0.9,), sample.quantile(0.9)), ("quantile", (0.1,), sample.quantile(0.1))):
        head, guess = number_head(loss, shares), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([guess], 0.1)
        for step in range(120):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 120)
            optimizer.zero_grad()
            head.losses(guess.expand(999, 1), sample).mean().backward()
            optimizer.step()
        assert guess.item() == pytest.approx(best.item(), abs=0.03), (loss, shares)


def test_labels_are_the_mean_of_binary_losses():
    head = LabelsHead(Layout("labels", vocabulary=3), FORM)
    logits, right = torch.randn(7, 3), torch.randint(0, 2, (7, 3)).float()
    each = torch.stack([binary_head().losses(logits[:, i : i + 1], right[:, i]) for i in range(3)])
    assert torch.allclose(head.losses(logits, right), each.mean(0), atol=1e-6)


@pytest.mark.parametrize(("head", "outputs", "right"), [
    (class_head(3, 0.1), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])),
    (binary_head((0.6, 2.0)), torch.randn(4, 1), torch.tensor([0.0, 1, 1, 0])),
    (number_head("mse"), torch.randn(4, 1), torch.randn(4)), (number_head("huber"), 2 * torch.randn(4, 1), torch.randn(4)),
    (number_head("quantile", (0.1, 0.9)), torch.randn(4, 2), torch.randn(4)),
])
def test_gradients_are_those_of_finite_differences(head: Any, outputs: torch.Tensor, right: torch.Tensor):
    x = outputs.double().requires_grad_()
    head = head.double()
    known = right if right.dtype == torch.int64 else right.double()
    assert torch.autograd.gradcheck(lambda given: head.losses(given, known).sum(), (x,))


def test_a_softmax_over_one_logit_has_no_gradient_and_the_logistic_loss_has():
    one = torch.randn(6, 1, requires_grad=True)
    torch.nn.functional.cross_entropy(one, torch.zeros(6, dtype=torch.int64)).backward()
    assert one.grad is not None
    assert (one.grad == 0).all()
    logit, y = torch.randn(6, 1, requires_grad=True), torch.tensor([0.0, 1, 0, 1, 1, 0])
    binary_head().losses(logit, y).sum().backward()
    assert logit.grad is not None
    assert torch.allclose(logit.grad[:, 0], logit.detach()[:, 0].sigmoid() - y, atol=1e-6)


def test_descent_follows_p_minus_y():
    """y - p, as it is sometimes printed, is what to add, not the gradient to descend."""
    logit = torch.tensor([[0.3]], requires_grad=True)
    before = binary_head().losses(logit, torch.tensor([1.0])).sum()
    before.backward()
    assert logit.grad is not None
    after = binary_head().losses(logit.detach() - 0.1 * logit.grad, torch.tensor([1.0])).sum()
    assert after < before
    assert logit.grad.item() == pytest.approx(1 / (1 + math.exp(-0.3)) - 1)


def test_a_probability_is_the_sigmoid_of_its_logit():
    found = binary_head().readable(torch.tensor([[0.85], [0.0], [-90.0], [90.0]]))
    assert found.tolist() == pytest.approx([0.7006, 0.5, 0.0, 1.0], abs=5e-5)
    assert class_head(3).readable(torch.tensor([[1.0, 2.0, 3.0]])).tolist()[0] == pytest.approx([0.0900, 0.2447, 0.6652], abs=5e-5)


def test_huge_logits_lose_no_number():
    far = torch.tensor([[500.0], [-500.0]], requires_grad=True)
    loss = binary_head().losses(far, torch.tensor([0.0, 1.0]))
    assert loss.tolist() == [500.0, 500.0]
    assert class_head(2).losses(torch.tensor([[1e4, -1e4]]), torch.tensor([1])).tolist() == [2e4]


def test_a_sequence_is_summed_up_without_its_padding():
    head, features = class_head(3), torch.randn(2, 5, 4)
    whole = head.outputs(Signal(features, torch.tensor([5, 2])))
    assert torch.allclose(whole[1], head.linear(features[1, :2].mean(0)), atol=1e-6)


@given(seeds, st.integers(2, 6), st.floats(0, 0.9), st.booleans(), st.floats(0, 1))
def test_the_shorter_way_to_the_mean_is_the_same(seed: int, classes: int, smoothing: float, weighted: bool, unanswered: float):
    torch.manual_seed(seed)
    head = class_head(classes, smoothing, tuple(float(w) for w in torch.rand(classes) + 0.5) if weighted else ())
    outputs, targets = torch.randn(9, classes, requires_grad=True), torch.randint(0, classes, (9,))
    targets[torch.rand(9) < unanswered] = IGNORE
    losses = head.losses(outputs, targets)
    known = targets != IGNORE
    assert torch.equal(losses.isnan(), ~known)
    mean = losses[known].mean() if known.any() else outputs.sum() * 0
    found = head.loss(outputs, targets)
    assert found.item() == pytest.approx(mean.item(), abs=1e-5)
    ours, theirs = (torch.autograd.grad(loss, outputs)[0] for loss in (found, mean))
    assert torch.allclose(ours, theirs, atol=1e-6)
