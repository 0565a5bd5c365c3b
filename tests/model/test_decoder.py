"""The compiled decoder beside the model that it runs, and its results in any company."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from decoders import check_company, model_of, read, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from treadle.core import native
from treadle.core.native import Kernels
from treadle.model.decoder import CompiledDecoder
from treadle.model.layers.four_bits import KIND as INT4
from treadle.model.layers.four_bits import Int4Linear
from treadle.model.passes import Pages
from treadle.spec.shape import Shape

SHAPES = [
    Shape(vocabulary=301, context=90, depth=2, width=96, heads=6, kv_heads=2, head_dim=32, hidden=160, tie_embeddings=False),
    Shape(vocabulary=64, context=90, depth=3, width=40, heads=2, kv_heads=2, head_dim=24, hidden=72, qk_norm=False),
    Shape(vocabulary=130, context=90, depth=1, width=128, heads=2, kv_heads=1, head_dim=64, hidden=32),
    Shape(vocabulary=17, context=90, depth=2, width=144, heads=1, kv_heads=1, head_dim=128, hidden=96),
]
KINDS = ["float32", "bf16", "int8", "int4"]


@pytest.fixture(scope="module")
def run() -> Kernels:
    found = native.kernels() if native.compiler() else None
    if found is None:
        pytest.skip("needs a C compiler")
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "most"), [("float32", 3e-6), ("bf16", 0.01), ("int8", 0.05), ("int4", 0.05)])
def test_its_scores_are_the_models(run: Kernels, shape: Shape, kind: str, most: float):
    """In float32 but for rounding. bf16: keys and values are rounded; int8 and int4: what products take as well."""
    model, text = model_of(shape, kind), words(shape, 80)
    decoder = CompiledDecoder(model, run, 2)
    assert decoder.kind == {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "int4": INT4}[kind]
    plain = copy.deepcopy(model).double() if kind not in ("int8", "int4") else model
    with torch.inference_mode():
        expected = plain.logits(torch.tensor([text]))[0].double()
    found = read(decoder, Pages(shape, decoder.kind, 9), text, random.Random(0).sample(range(9), 5)).double()
    assert float((found - expected).norm() / expected.norm()) < most


def test_an_int8_product_is_its_formula(run: Kernels):
    """Of no layers: the last norm's result in blocks of 128 with a scale each, whole numbers' products, the rows' scales."""
    shape = Shape(vocabulary=37, context=20, depth=0, width=300, heads=2, kv_heads=2, head_dim=32, hidden=32)
    model, text = model_of(shape, "int8"), words(shape, 20)
    found = read(CompiledDecoder(model, run, 1), Pages(shape, torch.int8, 2), text, [0, 1])
    weight, scale = model.embedding.weight.double(), model.embedding.weight_scale.double()
    x = model.trunk.norm((weight * scale[:, None])[text].float()).detach()
    blocks = torch.nn.functional.pad(x, (0, 84)).unflatten(1, (3, 128))
    largest = blocks.abs().amax(2, keepdim=True)
    whole = torch.round(blocks * (127 / largest)).double() * (largest / 127).double()
    expected = whole.flatten(1)[:, :300] @ weight.T * scale
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_an_int4_product_is_its_formula(run: Kernels):
    """Of one layer: the sum of its parts in float64, from whole numbers, scales and least values as they are held, with activations
    as whole numbers in blocks of 128."""
    shape = Shape(vocabulary=41, context=20, depth=1, width=224, heads=2, kv_heads=2, head_dim=32, hidden=160, qk_norm=False)
    model, text = model_of(shape, "int4"), words(shape, 1)
    layer = model.trunk.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight_scale.zero_()
        layer.self_attn.o_proj.weight_least.zero_()  # so that what the MLP reads is the embedding's norm alone

    def taken(x: Tensor) -> Tensor:
        blocks = torch.nn.functional.pad(x, (0, -x.shape[1] % 128)).view(len(x), -1, 128)
        largest = blocks.abs().amax(2, keepdim=True)
        return (torch.round(blocks * (127 / largest)).double() * (largest / 127).double()).flatten(1)[:, : x.shape[1]]

    x = model.embedding(torch.tensor(text)).detach()
    normed = taken(layer.post_attention_layernorm(x).detach())
    gate, up = (normed @ m.dequantized().double().T for m in (layer.mlp.gate_proj, layer.mlp.up_proj))
    hidden = taken((torch.nn.functional.silu(gate) * up).float())
    x = x.double() + hidden @ layer.mlp.down_proj.dequantized().double().T
    last = taken(model.trunk.norm(x.float()).detach())
    expected = last @ (model.embedding.weight.double() * model.embedding.weight_scale.double()[:, None]).T
    found = read(CompiledDecoder(model, run, 1), Pages(shape, INT4, 2), text, [0, 1])
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


def test_a_mix_that_no_kernel_is_for_is_left_to_torch(run: Kernels):
    model = model_of(SHAPES[0], "int8")
    model.trunk.layers[0].mlp.up_proj = Int4Linear.of(torch.nn.Linear(96, 160, bias=False))
    assert not CompiledDecoder.fits(model)
    assert all(CompiledDecoder.fits(model_of(SHAPES[0], kind)) for kind in KINDS)


def test_rows_of_tokens_are_scored_as_the_model_scores_them(run: Kernels):
    model = model_of(SHAPES[0], "float32")
    tokens = torch.tensor([words(SHAPES[0], 37), words(SHAPES[0], 37, 9)])
    with torch.inference_mode():
        torch.testing.assert_close(CompiledDecoder(model, run, 2).logits(tokens), model.logits(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    st.integers(0, len(SHAPES) - 1), st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 10**6)
)
def test_a_text_gets_the_same_scores_in_any_company_and_in_any_pieces(
    run: Kernels, kind: str, number: int, lengths: list[int], threads: int, seed: int
):
    """To the bit: alone at once by one thread, and in pieces beside others by several."""
    model = model_of(SHAPES[number], kind)
    check_company(CompiledDecoder(model, run, 1), CompiledDecoder(model, run, threads), lengths, random.Random(seed))
