"""Networks that read pictures: against plain torch, to disk and back, with mixed pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from treadle.core.batch import IGNORE, Batch
from treadle.core.layout import Layout
from treadle.model.network import Network, load_network, make_network, quantize_network, save_network
from treadle.spec.model import Model

TRUNKS: dict[str, dict[str, Any]] = {
    "mlp": {"mlp": {"width": [16]}}, "conv": {"conv": {"channels": [4, 6], "pad": False, "dense": [8]}},
    "residual": {"conv": {"channels": [4, 6], "residual": True}},
    "transformer": {"transformer": {"depth": 1, "width": 32, "heads": 2}},
}
MEAN, DEVIATION = (100.0, 120.0, 140.0), (50.0, 60.0, 70.0)


def network(trunk: dict[str, Any], mixup: float = 0.0, head: Any = "category", seed: int = 0) -> Network:
    image = {"size": [12, 8], "augment": {"mixup": mixup}}
    model = Model.model_validate({"inputs": {"photo": {"image": image}}, "trunk": trunk, "heads": {"kind": head}})
    layouts = {
        "inputs": {"photo": Layout("image", height=12, width=8, channels=3, patch=2, mean=MEAN, deviation=DEVIATION)},
        "heads": {"kind": Layout("category", vocabulary=3, options={"weight": 1.0})},
    }
    return make_network(model, layouts, seed)


def batch(count: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (count, 12, 8, 3), dtype=torch.uint8, generator=generator)
    return Batch({"photo": pictures}, {"kind": torch.randint(0, 3, (count,), generator=generator)})


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures.double() - torch.tensor(MEAN).double()) / torch.tensor(DEVIATION).double()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu", "silu"])
def test_convolutions_are_those_of_plain_torch(activation: str):
    """The largest of four is taken behind the activation, as the textbooks have it."""
    act: Any = getattr(torch, activation, None) or getattr(F, activation)
    made, given = network({"conv": {**TRUNKS["conv"]["conv"], "activation": activation}}), batch()
    w = {name: tensor.double() for name, tensor in made.state_dict().items()}
    x = normalised(given.inputs["photo"]).permute(0, 3, 1, 2)
    x = F.max_pool2d(act(F.conv2d(x, w["trunk.stages.0.0.weight"], w["trunk.stages.0.0.bias"])), 2)
    x = act(F.conv2d(x, w["trunk.stages.1.0.weight"], w["trunk.stages.1.0.bias"]))
    x = act(F.linear(x.flatten(1), w["trunk.dense.0.weight"], w["trunk.dense.0.bias"]))
    expected = F.linear(x, w["heads.kind.linear.weight"], w["heads.kind.linear.bias"])
    torch.testing.assert_close(made(given)["kind"].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_residual_blocks_are_those_of_plain_torch(kernel: int):
    made, given = network({"conv": {"channels": [4, 6], "residual": True, "kernel": kernel}}), batch()
    made.train()
    for _ in range(3):
        made.loss(given).backward()
    made.eval()
    w = {name: tensor.double() for name, tensor in made.state_dict().items()}

    def step(x: torch.Tensor, at: str, stride: int) -> torch.Tensor:
        weight, norm = w[f"{at}.0.weight"], f"{at}.1"
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(x, *(w[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")))

    x = normalised(given.inputs["photo"]).permute(0, 3, 1, 2).contiguous()
    for stage, stride in ((0, 1), (1, 2)):
        at = f"trunk.stages.{stage}"
        x = F.relu(step(F.relu(step(x, f"{at}.first", stride)), f"{at}.second", 1) + step(x, f"{at}.around", stride))
    expected = F.linear(x.mean((2, 3)), w["heads.kind.linear.weight"], w["heads.kind.linear.bias"])
    torch.testing.assert_close(made(given)["kind"].double(), expected, rtol=1e-4, atol=1e-5)


def test_dense_layers_see_every_pixel():
    made, given = network(TRUNKS["mlp"]), batch()
    w = made.state_dict()
    x = normalised(given.inputs["photo"]).flatten(1).float()
    x = F.relu(F.linear(x, w["trunk.layers.0.linear.weight"], w["trunk.layers.0.linear.bias"]))
    torch.testing.assert_close(made(given)["kind"], F.linear(x, w["heads.kind.linear.weight"], w["heads.kind.linear.bias"]))


def test_a_transformer_reads_squares_row_by_row():
    made, given = network(TRUNKS["transformer"]), batch()
    signal = made.inputs["photo"](given.inputs["photo"])
    assert signal.features.shape == (5, 6 * 4, 32)
    pixels = normalised(given.inputs["photo"]).numpy()
    bring, place = made.inputs["photo"].bring, made.inputs["photo"].place
    for row, column in ((0, 0), (0, 3), (5, 1)):
        square = torch.from_numpy(pixels[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(5, -1)).float()
        torch.testing.assert_close(signal.features[:, 4 * row + column], bring(square) + place[4 * row + column])
    shuffled = Batch({"photo": given.inputs["photo"].flip(1)}, given.targets)
    assert not torch.allclose(made(given)["kind"], made(shuffled)["kind"], atol=1e-4)


@pytest.mark.parametrize("name", TRUNKS)
def test_to_disk_and_back_and_in_int8(name: str, tmp_path: Path):
    made, given = network(TRUNKS[name]), batch()
    made.train()
    made.loss(given).backward()  # moves the running means of batch norms
    expected = made.eval()(given)["kind"]
    save_network(made, tmp_path)
    assert torch.equal(load_network(tmp_path)(given)["kind"], expected)
    quantize_network(made)
    small = made(given)["kind"]
    assert not torch.equal(small, expected)
    torch.testing.assert_close(small, expected, rtol=0.1, atol=0.1)
    save_network(made, tmp_path)
    assert torch.equal(load_network(tmp_path)(given)["kind"], small)


@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_a_picture_is_learned_by_heart(name: str):
    made, given = network(TRUNKS[name]).train(), batch(12)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        made.loss(given).backward()
        optimizer.step()
    assert (made.eval()(given)["kind"].argmax(1) == given.targets["kind"]).all()


def test_mixed_pictures_have_the_loss_of_both_answers():
    made, given = network(TRUNKS["mlp"], mixup=0.4).train(), batch(6)
    given.targets["kind"][2] = IGNORE
    torch.manual_seed(3)
    found = made.loss(given)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    order = torch.randperm(6)
    pictures = given.inputs["photo"].double()
    mixed = Batch({"photo": (share * pictures + (1 - share) * pictures[order]).float()}, {})
    logits, right = made(mixed)["kind"], given.targets["kind"]
    expected = share * F.cross_entropy(logits, right) + (1 - share) * F.cross_entropy(logits, right[order])
    torch.testing.assert_close(found, expected)
    assert 0.001 < share < 0.999
    assert made.loss(given) != found  # drawn anew
    made.eval()
    plain = F.cross_entropy(made(given)["kind"], right)
    torch.testing.assert_close(made.loss(given), plain)  # what is measured is never mixed


def misfits(inputs: dict[str, Any], trunk: dict[str, Any], head: Any = "category") -> list[str]:
    model = Model.model_validate({"inputs": inputs, "trunk": trunk, "heads": {"kind": head}})
    return [message for _, message in model.misfits()]


def test_what_cannot_be_mixed_or_cut_into_squares_is_said_before_any_work():
    mixed = {"image": {"augment": {"mixup": 0.2}}}
    assert misfits({"photo": mixed}, TRUNKS["mlp"]) == []
    assert misfits({"photo": mixed, "age": "number"}, TRUNKS["mlp"]) == ["input age cannot be mixed as pictures are"]
    assert "head next_item cannot be mixed as pictures are" in misfits({"photo": mixed}, TRUNKS["mlp"], "next_item")
    cut = {"image": {"size": [30, 20], "patch": 4}}
    assert misfits({"photo": cut}, TRUNKS["transformer"]) == ["squares of 4 do not fill a picture of 30 x 20"]
    assert misfits({"photo": cut}, TRUNKS["mlp"]) == []
    assert misfits({"photo": {"image": {"size": [30, 20]}}}, TRUNKS["transformer"]) == []
    assert np.gcd(30, 20) % Model.model_validate(
        {"inputs": {"photo": {"image": {"size": [30, 20]}}}, "trunk": TRUNKS["mlp"], "heads": {"kind": "category"}}
    ).inputs["photo"].settings.square == 0
