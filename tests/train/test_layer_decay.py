"""Rates that fall from layer to layer: beside torch's own AdamW with each layer's rate written out, and over an interruption."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.core.project import SpecError, load_project
from treadle.core.runtime import choose_runtime
from treadle.model.network import Network, make_network
from treadle.spec.encoder import EncoderShape
from treadle.spec.model import Model
from treadle.spec.train import Train
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

KIND = Layout("category", vocabulary=3, options={"smoothing": 0.0, "weight": 1.0})
# A layer's share of the rate, by what its parameters' names begin with: the head, two layers, the token vectors.
BY_HAND = {"heads.": 1.0, "trunk.norm.": 1.0, "trunk.layers.1.": 0.5, "trunk.layers.0.": 0.25, "inputs.": 0.125}


def fresh() -> Network:
    model = Model.model_validate({
        "inputs": {"note": {"context": 8}}, "trunk": {"transformer": {"depth": 2, "width": 16, "heads": 2}},
        "heads": {"y": "category"},
    })
    return make_network(model, {"inputs": {"note": Layout("text", vocabulary=20, length=8)}, "heads": {"y": KIND}}, 0)


class Same:
    def batch_at(self, step: int, batch: int) -> Batch:
        source = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 20, (batch, 8), generator=source)
        return Batch({"note": tokens}, {"y": tokens[:, 0] % 3}, {"note": torch.full((batch,), 8)})


def trained(folder: Path, steps: int, stop: int | None = None, decay: float = 0.5) -> Network:
    """After ``steps``, in one go or with a fresh process's loop after ``stop`` of them."""
    network = fresh()
    settings = Train.model_validate({"layer_decay": decay, "warmup": 0.0, "clip": 0, "checkpoint_every": "1 h"})
    for _ in range(1 if stop is None else 2):
        network = fresh()
        loop = Loop(
            network, OBJECTIVES["answers"], Same(), lambda model: 0.0, Horizon(steps, None), settings, 8, 0.01,
            choose_runtime("float32", 1), folder,
        )
        begun = loop.resume().step
        if stop and not begun:
            for _ in range(stop):
                loop._step(0.0, 0.0)
            loop.save()
        else:
            assert begun == (stop or 0)
            loop.run([])
        loop.history.close()
    return network


def test_each_layer_moves_at_its_own_rate(tmp_path: Path):
    ours, by_hand = trained(tmp_path, 3), fresh()
    scale = {name: next(s for start, s in BY_HAND.items() if name.startswith(start)) for name, _ in by_hand.named_parameters()}
    groups = [
        {"params": [p], "weight_decay": 0.1 if p.dim() >= 2 else 0.0, "scale": scale[name]}
        for name, p in by_hand.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * 0.01 * (1 - (step + 0.5) / 3)
        optimizer.zero_grad()
        by_hand.loss(Same().batch_at(step, 8)).backward()
        optimizer.step()
    for (name, one), two in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name
    (tmp_path / "even").mkdir()
    even = trained(tmp_path / "even", 3, decay=1.0)
    assert not torch.allclose(even.inputs["note"].embed_tokens.weight, ours.inputs["note"].embed_tokens.weight, atol=1e-4)


def test_going_on_is_exact(tmp_path: Path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut = trained(tmp_path / "whole", 6), trained(tmp_path / "cut", 6, stop=2)
    for one, two in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, two)


def test_of_an_encoder_with_open_weights():
    shape = EncoderShape(50, 16, 3, 2, 24, 24)
    model = Model.model_validate({
        "inputs": {"text": {"text": {"context": 20}}}, "trunk": {"pretrained": {"folder": "x", "freeze": 1}},
        "heads": {"y": "category"},
    })
    layouts = {"inputs": {"text": Layout("text", vocabulary=50, length=20)}, "heads": {"y": KIND}}
    scales = Network(model, layouts, shape).layer_scales(0.9)
    found: dict[str, set[float]] = {}
    for name, scale in scales.items():
        found.setdefault(re.sub(r"^(trunk\.encoder\.layer\.\d|[a-z]+).*", r"\1", name), set()).add(round(scale, 6))
    assert found == {
        "heads": {1.0}, "trunk.encoder.layer.2": {0.9}, "trunk.encoder.layer.1": {0.81}, "trunk.encoder.layer.0": {0.729},
        "inputs": {0.6561},
    }


def test_it_needs_layers_that_were_trained_before(tmp_path: Path):
    (tmp_path / "treadle.yaml").write_text("""
name: x
data: {sources: [{table: a.csv, licence: CC0-1.0}]}
model: {inputs: {a: text}, trunk: {transformer: {depth: 1}}, heads: {y: category}}
train: {layer_decay: 0.9}
""")
    with pytest.raises(SpecError, match="is for a trunk that brings its weights"):
        load_project(tmp_path)
    assert load_project(tmp_path, ["model.start_from=first"]).spec.train.layer_decay == 0.9
