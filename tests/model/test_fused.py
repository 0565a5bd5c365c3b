"""A transformer by compiled kernels: its loss and gradients are as near to float64 as those of torch's operations."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tiny import SHAPE
from treadle.core import native
from treadle.core.batch import Batch
from treadle.model.layers import fused
from treadle.model.layers.quantized import quantize_modules
from treadle.model.layers.recompute import noted
from treadle.model.model import LanguageModel, make_model
from treadle.plan import counting
from treadle.spec.shape import Shape

LONG = replace(SHAPE, context=150)  # blocks of 64, 64 and 22 queries
SHAPES = [
    SHAPE, LONG, replace(LONG, qk_norm=False), replace(LONG, heads=3, kv_heads=3, head_dim=10, tie_embeddings=False),
    replace(LONG, heads=4, kv_heads=1, head_dim=64), replace(SHAPE, head_dim=256, depth=1),
]


@pytest.fixture(autouse=True)
def _compiled():
    if native.compiler() is None:
        pytest.skip("needs a C compiler")


def batch_of(shape: Shape, places: Tensor | None = None) -> Batch:
    tokens = torch.randint(0, shape.vocabulary, (3, shape.context + 1), generator=torch.Generator().manual_seed(0))
    return Batch({"text": tokens[:, :-1]}, {"next": tokens[:, 1:]}, places={} if places is None else {"text": places})


def gradients(model: LanguageModel, batch: Batch, kind: torch.dtype) -> Tensor:
    """Loss and gradients of one batch, one behind the other, in float64."""
    with torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
        loss = model.train().loss(batch)
    return torch.cat([x.flatten().double() for x in (loss.detach(), *torch.autograd.grad(loss, list(model.parameters())))])


def errors(shape: Shape, batch: Batch, kind: torch.dtype) -> tuple[float, float]:
    """Relative distances to float64, by compiled kernels and by torch's operations."""
    exact = gradients(make_model(shape, 0).double(), batch, torch.float64)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "fused_attend", lambda *given, old=fused.fused_attend: calls.append(1) or old(*given))
        ours = gradients(make_model(shape, 0), batch, kind)
        assert len(calls) == shape.depth
        patch.setattr(native, "kernels", lambda: None)
        theirs = gradients(make_model(shape, 0), batch, kind)
        assert len(calls) == shape.depth
    return float((ours - exact).norm() / exact.norm()), float((theirs - exact).norm() / exact.norm())


@pytest.fixture(params=["kernel", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How attention is computed: the kernel is there on some processors alone."""
    run = native.kernels()
    if request.param == "products":
        monkeypatch.setattr(native.Kernels, "attends", lambda *given: False)
    elif run is None or not run.attends(torch.bfloat16, 16):
        pytest.skip("needs a processor with AVX-512 BF16")
    return request.param


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_float64(shape: Shape, kind: torch.dtype, way: str):
    ours, theirs = errors(shape, batch_of(shape), kind)
    assert ours < (1e-6 if kind == torch.float32 else 1.15 * theirs)
    assert ours < 0.05


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 150), min_size=1, max_size=40), st.sampled_from([torch.float32, torch.bfloat16]))
def test_documents_apart_of_any_lengths(way: str, lengths: list[int], kind: torch.dtype):
    places = torch.cat([torch.arange(length) for length in (*lengths, 450)])[: 3 * LONG.context].view(3, LONG.context).clone()
    for row in places:  # each begins with a document
        row -= row[0] * (torch.arange(LONG.context) < int((row == 0).nonzero()[0]) if bool((row == 0).any()) else 1)
    ours, theirs = errors(replace(LONG, depth=1, head_dim=16), batch_of(LONG, places), kind)
    assert ours < (1e-6 if kind == torch.float32 else 1.15 * theirs)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_is_counted(kind: torch.dtype, way: str):
    for shape in (SHAPE, LONG, replace(LONG, qk_norm=False), replace(LONG, head_dim=16)):
        model, saved = make_model(shape, 0).train(), {}
        fixed = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

        def keep(tensor: Tensor, saved: dict[int, int] = saved, fixed: set[int] = fixed) -> None:
            if tensor.untyped_storage().data_ptr() not in fixed and tensor.is_floating_point():
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

        batch = batch_of(shape)
        with noted(keep), torch.autocast("cpu", torch.bfloat16, kind == torch.bfloat16):
            loss = model.loss(batch)
        positions, size = batch.positions, kind.itemsize
        matrices = shape.matrix_parameters - shape.vocabulary * shape.width  # copies, but in float32 of those that stand alone
        alone = shape.depth * shape.width * (shape.heads * shape.head_dim + shape.hidden) if kind == torch.float32 else 0
        head = positions * shape.width * size + shape.vocabulary * shape.width * 4
        expected = 4 * positions * counting.activation_floats(shape, fused=size) + size * (matrices - alone) + head
        assert sum(saved.values()) == pytest.approx(expected, rel=1e-6)
        del loss


def test_what_has_another_product_is_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    model = make_model(SHAPE, 0)
    quantize_modules(model)
    monkeypatch.setattr(fused._Layer, "apply", lambda *given: pytest.fail("took the kernels"))
    assert model.hidden(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, SHAPE.width)


def test_infinities_are_not_hidden():
    """The watch over a run sees a loss that is not finite."""
    model = make_model(SHAPE, 0)
    with torch.no_grad():
        model.trunk.layers[0].mlp.up_proj.weight[3, 5] = torch.inf
    assert not torch.isfinite(model.loss(batch_of(SHAPE)))
