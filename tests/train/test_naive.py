"""The loss of the best answer that looks at nothing, beside plain arithmetic and beside a search for that answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tiny import SHAPE
from treadle.core.batch import IGNORE, Batch
from treadle.core.layout import Layout
from treadle.data.columns import Column, ragged
from treadle.data.loader import Examples, Numbers
from treadle.data.table import Table
from treadle.model.model import make_model
from treadle.model.network import make_network
from treadle.spec.model import Model
from treadle.train.naive import naive_loss


def loss_of(kind: str, layout: Layout, targets: np.ndarray, weight: float = 1.0) -> tuple[float, float]:
    """The naive loss of a head, and the least that gradient descent on constant outputs finds."""
    settings = {"quantiles": list(layout.options["quantiles"])} if (layout.options or {}).get("quantiles") else {}
    model = Model.model_validate({"inputs": {"x": "number"}, "trunk": {"mlp": {"width": 4}}, "heads": {"y": {kind: settings}}})
    network = make_network(model, {"inputs": {"x": Layout("number")}, "heads": {"y": layout}}, 0)
    table = Table("train", {"x": Column(np.zeros(len(targets), np.float32))}, {"y": Column(targets)}, 0, shuffle=False)
    right = torch.from_numpy(targets)
    outputs = torch.zeros(1, network.heads["y"].linear.out_features, requires_grad=True)
    search = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        search.zero_grad()
        loss = network.heads["y"].losses(outputs.expand(len(right), -1), right).nanmean()
        loss.backward()
        return loss

    search.step(step)
    found = naive_loss(network, table, len(targets), 7)
    assert found is not None
    return found, weight * step().item()


def test_classes_yes_or_no_and_labels():
    draw = np.random.default_rng(0)
    classes = draw.choice(4, 200, p=[0.5, 0.3, 0.15, 0.05]).astype(np.int64)
    shares = np.bincount(classes) / 200
    classes[:3] = IGNORE
    shares = np.bincount(classes[3:]) / 197
    found, least = loss_of("category", Layout("category", vocabulary=4, options={"weight": 1.0}), classes)
    assert found == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert found == pytest.approx(least, rel=1e-4)
    weights = (0.5, 1.0, 2.0, 4.0)
    found, least = loss_of("category", Layout("category", vocabulary=4, weights=weights, options={"weight": 1.0}), classes)
    assert found == pytest.approx(least, rel=1e-4)
    yes = (draw.random(200) < 0.2).astype(np.float32)
    yes[0] = np.nan
    found, least = loss_of("binary", Layout("binary", vocabulary=2, options={"weight": 1.0}), yes)
    assert found == pytest.approx(least, rel=1e-4)
    found, least = loss_of("binary", Layout("binary", vocabulary=2, weights=(0.6, 2.5), options={"weight": 1.0}), yes)
    assert found == pytest.approx(least, rel=1e-4)
    flags = (draw.random((200, 3)) < [0.1, 0.5, 0.9]).astype(np.float32)
    found, least = loss_of("labels", Layout("labels", vocabulary=3, options={"weight": 1.0}), flags)
    assert found == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "mae", "quantile"])
def test_numbers(loss: str):
    numbers = np.random.default_rng(1).gamma(2, 1, 301).astype(np.float32)
    numbers[5] = np.nan
    quantiles = [0.1, 0.5, 0.9] if loss == "quantile" else []
    found, least = loss_of("number", Layout("number", options={"loss": loss, "quantiles": quantiles, "weight": 1.0}), numbers)
    assert found <= least + 1e-3  # the search jerks about the kink of an absolute value
    assert found == pytest.approx(least, rel=0.02)
    if loss == "mse":
        assert found == pytest.approx(float(np.nanvar(numbers)), rel=1e-5)


class Tokens(Examples):
    """Half the tokens are 7, a quarter each 8 and 9; every tenth position asks for none."""

    context = 20

    def rows(self, numbers: Numbers) -> Batch:
        row = torch.tensor([7, 7, 8, 9] * 5)
        wanted = row.masked_fill(torch.arange(20) % 20 == 19, IGNORE).masked_fill(torch.arange(20) % 20 < 3, IGNORE)
        return Batch({"text": row.repeat(len(numbers), 1)}, {"next": wanted.repeat(len(numbers), 1)})


def test_tokens_are_as_surprising_as_their_frequencies():
    found = naive_loss(make_model(SHAPE, 0), Tokens(), 3, 2)
    assert found == pytest.approx(-(0.5 * math.log(0.5) + 0.5 * math.log(0.25)))


def test_heads_are_weighed_and_an_unknown_kind_is_left_open():
    model = Model.model_validate({
        "inputs": {"x": "number"}, "trunk": {"mlp": {"width": 4}}, "heads": {"a": "number", "b": {"number": {"weight": 3.0}}},
    })
    one = Layout("number", options={"loss": "mse", "quantiles": [], "weight": 1.0})
    three = Layout("number", options={"loss": "mse", "quantiles": [], "weight": 3.0})
    network = make_network(model, {"inputs": {"x": Layout("number")}, "heads": {"a": one, "b": three}}, 0)
    y = Column(np.array([0, 2, 4], np.float32))
    table = Table("train", {"x": y}, {"a": y, "b": y}, 0, shuffle=False)
    assert naive_loss(network, table, 3, 2) == pytest.approx(4 * np.var([0, 2, 4]))
    ctc = Model.model_validate({"inputs": {"x": "audio"}, "trunk": {"recurrent": {"width": 4}}, "heads": {"y": "ctc"}})
    layouts = {"inputs": {"x": Layout("audio", length=9, channels=4, mean=(0.0,) * 4, deviation=(1.0,) * 4)},
               "heads": {"y": Layout("ctc", vocabulary=5, options={"weight": 1.0})}}
    sounds = Column(np.zeros((2, 9, 4), np.float32))
    spoken = Table("train", {"x": sounds}, {"y": ragged([np.array([1]), np.array([2])], np.int64)}, 0, shuffle=False)
    assert naive_loss(make_network(ctc, layouts, 0), spoken, 2, 2) is None
