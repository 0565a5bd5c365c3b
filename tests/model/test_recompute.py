"""What is made anew or computed again in the backward pass gives the same gradients, bit for bit, from less memory."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tiny import SHAPE
from treadle.core.batch import Batch
from treadle.core.gradients import Gradients
from treadle.core.runtime import choose_runtime
from treadle.model.layers import attention, norm, recompute, swiglu
from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.recompute import noted, remade
from treadle.model.model import LanguageModel, make_model
from treadle.model.trunks import transformer
from treadle.spec.shape import Shape
from treadle.spec.train import Train

SHAPES = [SHAPE, replace(SHAPE, qk_norm=False), replace(SHAPE, kv_heads=4, tie_embeddings=False)]


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recompute, "REMADE", 0)


def batch_of(shape: Shape, rows: int = 4) -> Batch:
    tokens = torch.randint(0, shape.vocabulary, (rows, shape.context + 1), generator=torch.Generator().manual_seed(0))
    return Batch({"text": tokens[:, :-1]}, {"next": tokens[:, 1:]})


def gradients(model: LanguageModel, precision: str = "float32") -> tuple[list[Tensor], Tensor]:
    """Of one batch, and torch's random state behind it."""
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
        loss = model.train().loss(batch_of(model.shape))
    loss.backward()
    return [p.grad for p in model.parameters()], torch.get_rng_state()


def kept(model: LanguageModel) -> dict[int, Tensor]:
    """Tensors that are kept for the backward pass, by their memory."""
    found: dict[int, Tensor] = {}
    with noted(lambda tensor: found.setdefault(tensor.untyped_storage().data_ptr(), tensor)):
        model.train().loss(batch_of(model.shape))
    return found


def same(one: tuple[list[Tensor], Tensor], two: tuple[list[Tensor], Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True)) and torch.equal(one[1], two[1])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_made_anew_changes_no_bit(
    shape: Shape, dropout: float, precision: str, monkeypatch: pytest.MonkeyPatch, no_kernels: None
):
    ours, bytes_kept = gradients(make_model(shape, 0, dropout), precision), kept(make_model(shape, 0, dropout))
    for module in (attention, norm, swiglu, transformer):
        monkeypatch.setattr(module, "remade", lambda *made: nullcontext())
    assert same(ours, gradients(make_model(shape, 0, dropout), precision))
    all_kept = kept(make_model(shape, 0, dropout))
    ours, theirs = (sum(t.untyped_storage().nbytes() for t in found.values()) for found in (bytes_kept, all_kept))
    assert ours < 0.85 * theirs


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_layers_that_are_computed_again_change_no_bit(shape: Shape, dropout: float, precision: str):
    model = make_model(shape, 0, dropout)
    model.trunk.recompute = True
    assert same(gradients(model, precision), gradients(make_model(shape, 0, dropout), precision))
    with torch.no_grad():
        tokens = batch_of(shape).inputs["text"]
        assert torch.equal(model.eval().logits(tokens), make_model(shape, 0, dropout).eval().logits(tokens))


def test_of_layers_that_are_computed_again_their_input_is_kept():
    model, other = make_model(replace(SHAPE, depth=6), 0), make_model(replace(SHAPE, depth=4), 0)
    model.trunk.recompute = other.trunk.recompute = True
    more, less = (sum(t.untyped_storage().nbytes() for t in kept(m).values()) for m in (model, other))
    parameters = sum(p.numel() for p in model.trunk.parameters()) - sum(p.numel() for p in other.trunk.parameters())
    assert more - less == 2 * 4 * 4 * SHAPE.context * SHAPE.width
    assert parameters > 0


@pytest.mark.parametrize("parts", [1, 2])
def test_workers_compute_again_what_each_computed(parts: int):
    runtime = replace(choose_runtime("float32", 1), workers=2)
    found = []
    for again in (False, True):
        model = make_model(SHAPE, 0)
        torch.manual_seed(1)
        work = Gradients(model, LanguageModel.loss, runtime, Train(accumulate=parts, recompute=again))
        work(batch_of(SHAPE))
        work.close()
        assert model.trunk.recompute == again
        found.append(([p.grad for p in model.parameters()], torch.get_rng_state()))
    assert same(*found)


def test_the_norm_is_torchs_to_the_bit():
    layer, theirs = RMSNorm(24, 1e-6), torch.nn.Parameter(torch.randn(24))
    with torch.no_grad():
        layer.weight.copy_(theirs)
    one, two = (torch.randn(7, 5, 24, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    ours, reference = layer(one), F.rms_norm(two, (24,), theirs, 1e-6)
    assert torch.equal(ours, reference)
    ours.sin().sum().backward()
    reference.sin().sum().backward()
    assert torch.equal(one.grad, two.grad)
    assert torch.equal(layer.weight.grad, theirs.grad)


def test_a_tensor_is_made_once_for_all_that_keep_it_and_then_let_go():
    made = []
    x = torch.randn(5, requires_grad=True)
    y = x * 2

    def how() -> Tensor:
        made.append(1)
        return x * 2

    with remade((y, how)):
        z = (y.sin() + y.cos() + y.exp()[:2].sum()).sum()  # exp keeps its own result
    (found,) = torch.autograd.grad(z, x)
    assert made == [1]
    plain = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(((plain * 2).sin() + (plain * 2).cos() + (plain * 2).exp()[:2].sum()).sum(), plain)
    torch.testing.assert_close(found, expected)
