"""The set of boxes: assignment against scipy, losses against a slow reference in float64, and a tiny set learned by heart."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tests.scenes import png, scene

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.evaluate.answers import score_records
from treadle.evaluate.detection import detection_figures
from treadle.evaluate.metrics import weights
from treadle.model.heads.boxes import BoxesHead, Found
from treadle.model.layers.assignment import assign
from treadle.model.layers.boxes import cells, generalized_iou, waves
from treadle.model.layers.signal import Form
from treadle.model.network import Network, load_network, make_network, quantize_network, save_network
from treadle.spec.model import Model

OPTIONS = {"weight": 1.0, "queries": 6, "width": 32, "depth": 2, "threshold": 0.5}
LAYOUT = Layout("boxes", vocabulary=3, options=OPTIONS)


@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 9), st.booleans())
def test_the_assignment_is_as_good_as_scipys(seed: int, rows: int, more: int, ties: bool):
    costs = np.random.default_rng(seed).normal(0, 3, (rows, rows + more))
    costs = costs.round() if ties else costs
    found = assign(costs.tolist())
    assert len(set(found)) == rows
    best = costs[linear_sum_assignment(costs)].sum()
    assert sum(costs[row, column] for row, column in enumerate(found)) == pytest.approx(best, abs=1e-9)
    if rows and rows + more <= 6:
        every = itertools.permutations(range(rows + more), rows)
        assert best == pytest.approx(min(sum(costs[r, c] for r, c in enumerate(given)) for given in every), abs=1e-9)


def overlap(one: Any, two: Any) -> float:
    """Generalised intersection over union by corners, in plain Python."""
    (a, b), (c, d) = (((x - w / 2, x + w / 2), (y - h / 2, y + h / 2)) for x, y, w, h in (one, two))
    meet = math.prod(max(0.0, min(p[1], q[1]) - max(p[0], q[0])) for p, q in ((a, c), (b, d)))
    union = one[2] * one[3] + two[2] * two[3] - meet
    around = math.prod(max(p[1], q[1]) - min(p[0], q[0]) for p, q in ((a, c), (b, d)))
    return meet / union - (around - union) / around


def test_generalised_overlap():
    same, beside, apart = (torch.tensor(box) for box in ([0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.9, 0.5, 0.2, 0.2]))
    assert generalized_iou(same, same).item() == pytest.approx(1)
    assert generalized_iou(same, beside).item() == pytest.approx(1 / 3)
    assert generalized_iou(same, apart).item() == pytest.approx(-1 / 3)
    boxes = np.random.default_rng(0).uniform(0.05, 0.9, (200, 2, 4))
    found = generalized_iou(*torch.tensor(boxes).unbind(1))
    np.testing.assert_allclose(found, [overlap(*pair) for pair in boxes], atol=1e-9)


def test_places_are_told_apart():
    grid = waves(cells(6, 4), 32)
    assert grid.shape == (24, 32)
    near = grid @ grid.T
    assert (near.argmax(1) == torch.arange(24)).all()
    np.testing.assert_allclose(cells(2, 3), [[x, y] for y in (0.25, 0.75) for x in (1 / 6, 0.5, 5 / 6)], rtol=1e-6)


def head() -> BoxesHead:
    torch.manual_seed(0)
    return BoxesHead(LAYOUT, Form(12, 8, (3, 4)))


def found_and_right() -> tuple[Found, torch.Tensor]:
    """Two layers, four rows: two things, one and one of a label that training never saw, none, and no answer."""
    source = torch.Generator().manual_seed(1)
    logits, boxes = torch.randn(2, 4, 6, 4, generator=source), torch.rand(2, 4, 6, 4, generator=source) * 0.4 + 0.3
    targets = torch.zeros(4, 2, 5)
    targets[..., 1:] = torch.rand(4, 2, 4, generator=source) * 0.4 + 0.3
    targets[0, :, 0], targets[1, :, 0] = torch.tensor([2.0, 1.0]), torch.tensor([3.0, -1.0])
    targets[2] = 0
    targets[3], targets[3, 0] = 0, torch.nan
    return Found(logits, boxes), targets


def slow_loss(logits: Any, boxes: Any, things: Any) -> float:
    """One picture in float64, as Carion et al. 2020 have it, but that each picture's boxes are a mean of their own."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def off(query: int, thing: Any) -> float:
        return 5 * np.abs(boxes[query] - thing[1:]).sum() - 2 * overlap(boxes[query], thing[1:])

    cost = np.array([[off(q, t) - shares[q, int(t[0])] for q in range(len(boxes))] for t in things])
    cost = cost.reshape(len(things), len(boxes))
    rows, queries = linear_sum_assignment(cost)
    right = np.zeros(len(boxes), int)
    right[queries] = [int(things[row][0]) for row in rows]
    weight = np.where(right > 0, 1.0, 0.1)
    labels = (weight * -np.log(shares[np.arange(len(boxes)), right])).sum() / weight.sum()
    return labels + sum(off(q, things[r]) + 2 for r, q in zip(rows, queries, strict=True)) / max(1, len(things))


def test_losses_are_those_of_the_slow_reference():
    found, targets = found_and_right()
    losses = head().losses(found, targets)
    for row in range(3):
        things = [thing for thing in targets[row].double().numpy() if thing[0] > 0]
        layers = [(found.logits[n, row].double().numpy(), found.boxes[n, row].double().numpy()) for n in (0, 1)]
        slow = [slow_loss(*layer, things) for layer in layers]
        assert losses[row].item() == pytest.approx(np.mean(slow), rel=1e-5)
    assert losses[3].isnan()
    boxes = found.boxes.clone().requires_grad_()
    head().losses(Found(found.logits, boxes), targets)[:3].sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()
    assert (boxes.grad[:, 2:] == 0).all()


def test_more_things_than_queries_are_left_out():
    found, _ = found_and_right()
    many = torch.rand(4, 9, 5)
    many[..., 0] = 1
    assert head().losses(found, many).isfinite().all()


def test_probabilities_take_the_weight_of_nothing_back():
    found, _ = found_and_right()
    told = head().readable(found)
    assert told.shape == (4, 6, 6)
    assert (told[:, 1:, 1] <= told[:, :-1, 1]).all()
    odds = found.logits[-1].exp()
    shares = odds[..., 1:].amax(-1) / (odds[..., 1:].sum(-1) + odds[..., 0] / 0.1)
    torch.testing.assert_close(told[..., 1], shares.sort(1, descending=True).values)
    assert set(told[..., 0].flatten().tolist()) <= {1.0, 2.0, 3.0}


def network(trunk: dict[str, Any] | None = None) -> Network:
    model = Model.model_validate({
        "inputs": {"photo": {"image": {"size": [24, 16]}}}, "trunk": trunk or {"conv": {"channels": [4, 6]}},
        "heads": {"things": {"boxes": {}}},
    })
    photo = Layout("image", height=24, width=16, channels=3, patch=4, mean=(90.0,) * 3, deviation=(50.0,) * 3)
    return make_network(model, {"inputs": {"photo": photo}, "heads": {"things": LAYOUT}}, 0)


def pictures(rows: int = 3) -> Batch:
    source = torch.Generator().manual_seed(0)
    targets = torch.rand(rows, 2, 5, generator=source) * 0.5 + 0.2
    targets[..., 0] = 1
    return Batch({"photo": torch.randint(0, 256, (rows, 24, 16, 3), dtype=torch.uint8, generator=source)}, {"things": targets})


@pytest.mark.parametrize("trunk", [
    {"conv": {"channels": [4, 6], "residual": True}}, {"conv": {"channels": [4, 6], "pad": False}},
    {"transformer": {"depth": 1, "width": 32, "heads": 2}},
])
def test_every_trunk_that_keeps_places(trunk: dict[str, Any], tmp_path: Path):
    made = network(trunk).train()
    made.loss(pictures()).backward()
    assert all(parameter.grad is not None for parameter in made.heads.parameters())
    made.eval()
    assert made(pictures())["things"].logits.shape == (1, 3, 6, 4)
    save_network(made, tmp_path)
    again = load_network(tmp_path)
    torch.testing.assert_close(again(pictures())["things"].boxes, made(pictures())["things"].boxes)
    alone = made(pictures().take(torch.tensor([1])))["things"]
    torch.testing.assert_close(alone.boxes[:, 0], made(pictures())["things"].boxes[:, 1])


def test_eight_bits_are_near():
    made, small = network().eval(), network().eval()
    quantize_network(small)
    torch.testing.assert_close(small(pictures())["things"].boxes, made(pictures())["things"].boxes, atol=0.02, rtol=0)


def test_a_tiny_set_is_learned_by_heart():
    rng = np.random.default_rng(5)
    model = Model.model_validate({
        "inputs": {"photo": {"image": {"size": 40}}}, "trunk": {"conv": {"channels": [8, 16, 32], "norm": "batch"}},
        "heads": {"things": {"boxes": {"queries": 6, "width": 64}}},
    })
    schema = Schema(model)
    scenes = [scene(rng, (40, 40)) for _ in range(12)]
    plain = [schema.parse({"photo": png(picture), "things": things}) for picture, things in scenes]
    schema.fit([Record(str(number), fields, "", "", str(number)) for number, fields in enumerate(plain)])
    table = Table("train", schema.encode_inputs(plain), schema.encode_targets(plain), 0, shuffle=False)
    made = make_network(model, schema.layouts, 0)

    def figures() -> dict[str, float]:
        scores = score_records(made, table)["things"]
        found = detection_figures(scores.outputs, scores.targets, schema.targets["things"], weights(12, 100, 0))
        return {name: figure.value for name, figure in found.items()}

    before = figures()
    optimizer = torch.optim.AdamW(made.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    made.train()
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (150 - step) / 75)
        made.loss(table.whole()).backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    after = figures()
    assert before["map50"] < 0.2
    assert after["map50"] > 0.9
    assert after["precision"] > 0.9
    assert after["recall"] > 0.9
