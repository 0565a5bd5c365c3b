"""Networks over tables: a row's answer is its own, whatever stands beside it; they learn; they are the same when read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from networks import LAYOUTS, TRUNKS, batch_of, make

from treadle.core.batch import Batch
from treadle.core.errors import ArtifactError
from treadle.model.network import load_network, quantize_network, save_network


def cut(batch: Batch, row: int) -> Batch:
    """One row without any padding."""
    alone = batch.take(torch.tensor([row]))
    inputs = {name: x[:, : int(alone.lengths[name][0])] if name in alone.lengths else x for name, x in alone.inputs.items()}
    return Batch(inputs, alone.targets, alone.lengths)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_row_is_answered_alike_alone_and_in_any_company(trunk: str):
    network, batch = make(trunk).eval(), batch_of(9)
    with torch.inference_mode():
        together = network(batch)
        filled = {name: torch.cat([x, torch.full_like(x[:, :4], 3)], 1) if name in batch.lengths else x
                  for name, x in batch.inputs.items()}
        longer = network(Batch(filled, batch.targets, batch.lengths))
        alone = [network(cut(batch, row)) for row in range(9)]
    for name, outputs in together.items():
        assert torch.allclose(outputs, longer[name], atol=1e-5), name
        assert torch.allclose(outputs, torch.cat([found[name] for found in alone]), atol=1e-5), name


@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_input_and_every_weight_takes_part(trunk: str):
    network, batch = make(trunk), batch_of(16)
    network.eval()
    whole = network(batch)["price"]
    for name in LAYOUTS:
        other = batch_of(16, seed=1)
        changed = Batch({**batch.inputs, name: other.inputs[name]}, batch.targets, {
            **batch.lengths, **({name: other.lengths[name]} if name in other.lengths else {})})
        assert not torch.allclose(whole, network(changed)["price"], atol=1e-4), name
    network.train()
    network.loss(batch).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("trunk", TRUNKS)
def test_it_can_learn_a_batch_by_heart(trunk: str):
    network, batch = make(trunk), batch_of(16)
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    torch.manual_seed(0)
    first = network.loss(batch).item()
    for _ in range(60):
        optimizer.zero_grad()
        network.loss(batch).backward()
        optimizer.step()
    assert network.loss(batch).item() < 0.3 * first


def test_the_order_of_a_text_matters_to_what_reads_it_in_order():
    batch = batch_of(4)
    lengths = batch.lengths | {"note": torch.full((4,), 12)}
    turned = Batch({**batch.inputs, "note": batch.inputs["note"].flip(1)}, batch.targets, lengths)
    for trunk, minds in (("mlp", False), ("transformer", True), ("lstm", True)):
        network = make(trunk).eval()
        same = torch.allclose(network(Batch(batch.inputs, batch.targets, lengths))["kind"], network(turned)["kind"], atol=1e-5)
        assert same is not minds, trunk


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = (make("transformer", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_heads_are_summed_by_weight_over_the_rows_with_an_answer():
    network, batch = make("mlp").eval(), batch_of(8)
    batch.targets["price"][:5] = torch.nan
    batch.targets["kind"][0] = -100
    losses = network.losses(network(batch), batch)
    assert losses["price"].isnan().tolist() == [True] * 5 + [False] * 3
    expected = losses["kind"][1:].mean() + 0.5 * losses["price"][5:].mean() + losses["yes"].mean()
    assert network.loss(batch).item() == pytest.approx(expected.item(), rel=1e-6)
    batch.targets["price"][:] = torch.nan  # no answer at all: no loss, and no gradient that is not a number
    network.loss(batch).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("quantize", [False, True])
def test_read_back_it_is_the_same(tmp_path: Path, trunk: str, quantize: bool):
    network, batch = make(trunk).eval(), batch_of(5)
    if quantize:
        quantize_network(network)
    with torch.inference_mode():
        before = network(batch)
        save_network(network, tmp_path)
        after = load_network(tmp_path)(batch)
    assert json.loads((tmp_path / "network.json").read_text())["quantize"] == ("int8" if quantize else "none")
    for name, outputs in before.items():
        assert torch.equal(outputs, after[name])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_int8_is_smaller_and_close(tmp_path: Path, trunk: str):
    network, packed, batch = make(trunk).eval(), make(trunk).eval(), batch_of(40)
    quantize_network(packed)
    sizes = [sum(t.numel() * t.element_size() for t in n.state_dict().values()) for n in (network, packed)]
    assert sizes[1] < (0.9 if trunk in ("lstm", "gru") else 0.5) * sizes[0]
    with torch.inference_mode():
        many, few = packed(batch), packed(batch.take(torch.arange(6)))
        exact = network(batch)
    for name, outputs in exact.items():
        assert (outputs - many[name]).abs().max() < 0.05 * outputs.abs().max(), name
        assert torch.allclose(few[name], many[name][:6], atol=1e-5), name


@pytest.mark.parametrize("damage", ["cut", "shape", "kind", "missing"])
def test_a_damaged_folder_is_said_to_be_one(tmp_path: Path, damage: str):
    save_network(make("mlp"), tmp_path)
    file = tmp_path / "network.json"
    if damage == "cut":
        (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:200])
    elif damage == "missing":
        file.unlink()
    else:
        found = json.loads(file.read_text())
        if damage == "shape":
            found["layouts"]["inputs"]["shape"]["vocabulary"] = 99
        else:
            found["layouts"]["inputs"]["shape"]["kind"] = "smell"
        file.write_text(json.dumps(found))
    with pytest.raises(ArtifactError, match="cannot read the model") as caught:
        load_network(tmp_path)
    assert "run again" in caught.value.cure
