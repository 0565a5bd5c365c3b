"""The decoder of torch's operations beside the model that it runs, its results in any company, and where its numbers lie."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import pytest
import torch
from decoders import check_company, model_of, read, words
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from treadle.model import torch_decoder as module
from treadle.model.layers.quantized import quantize_language
from treadle.model.model import LanguageModel, make_model
from treadle.model.passes import Pass
from treadle.model.torch_decoder import SPAN, TorchDecoder
from treadle.spec.shape import Shape

CPU = torch.device("cpu")
LONG = 2 * SPAN + 60
SHAPES = [
    Shape(vocabulary=301, context=LONG, depth=2, width=96, heads=6, kv_heads=2, head_dim=32, hidden=160, tie_embeddings=False),
    Shape(vocabulary=64, context=LONG, depth=3, width=40, heads=2, kv_heads=2, head_dim=20, hidden=72, qk_norm=False),
]
KINDS = ["float32", "bf16", "int8", "int4"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "rounded", "most"),
    [("float32", None, 2e-6), ("float32", torch.bfloat16, 2e-6), ("bf16", torch.bfloat16, 0.01), ("bf16", None, 2e-6),
     ("int8", torch.float32, 2e-6), ("int8", torch.bfloat16, 0.01), ("int4", torch.bfloat16, 0.01)],
)  # fmt: skip
def test_its_scores_are_the_models(shape: Shape, kind: str, rounded: torch.dtype | None, most: float):
    """But for rounding; weights that bf16 does not hold exactly stay as they are."""
    model, text = model_of(shape, kind), words(shape, LONG - 10)
    plain = copy.deepcopy(model)
    if kind in ("int8", "int4"):
        for module in plain.modules():
            if hasattr(module, "few_rows"):
                module.few_rows = 0  # whole numbers times float32
    else:
        plain = plain.double()
    with torch.inference_mode():
        expected = plain.logits(torch.tensor([text]))[0].double()
    decoder = TorchDecoder(model, CPU, kind=rounded)
    assert decoder.kind == (torch.bfloat16 if rounded == torch.bfloat16 and kind != "float32" else torch.float32)
    found = read(decoder, decoder.pages(50), text, random.Random(0).sample(range(50), 36)).double()
    assert float((found - expected).norm() / expected.norm()) < most


@pytest.mark.parametrize("rounded", [None, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(st.integers(0, 1), st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(0, 10**6))
def test_a_text_gets_the_same_scores_in_any_company_and_in_any_pieces(
    kind: str, rounded: torch.dtype | None, number: int, lengths: list[int], seed: int
):
    decoder = TorchDecoder(model_of(SHAPES[number], kind), CPU, kind=rounded)
    check_company(decoder, decoder, lengths, random.Random(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_so_does_one_of_several_spans(kind: str):
    decoder = TorchDecoder(model_of(SHAPES[0], kind), CPU)
    check_company(decoder, decoder, [SPAN, 3, SPAN + 1, LONG], random.Random(1), 200)


def test_the_rows_of_a_tile_change_no_more_than_rounding(monkeypatch: pytest.MonkeyPatch):
    text, found = words(SHAPES[0], 100), []
    for rows in (8, 64):
        monkeypatch.setattr(module, "ROWS", rows)
        decoder = TorchDecoder(model_of(SHAPES[0], "float32"), CPU)
        found.append(read(decoder, decoder.pages(7), text, range(7)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [(0, 2), ()])
def test_on_another_device_all_is_there_and_scores_come_back(asked: tuple[int, ...]):
    """With tensors that hold no numbers but know their device, and refuse to be mixed."""
    device = torch.device("lazy")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = LanguageModel(SHAPES[0]).eval()
        quantize_language(model, "int8")
        for module in model.modules():
            for name, weight in list(module._parameters.items()):
                del module._parameters[name]  # fake parameters cannot be taken elsewhere, buffers can
                module.register_buffer(name, weight.detach())
        decoder = TorchDecoder(model, device, kind=torch.bfloat16)
        pages = decoder.pages(4)
        assert (pages.keys.device, pages.keys.dtype, decoder.tile) == (device, torch.bfloat16, 64)
        scores = decoder.read(Pass([1, 2, 3], [0, 1, 0], [0, 0, 1], torch.tensor([[0, 1], [2, 3]]), asked), pages)
        with pytest.raises(RuntimeError, match="lazy"):
            pages.keys + torch.zeros(1, 1, 1, 1, 16)
    assert (scores.device, scores.dtype, tuple(scores.shape)) == (CPU, torch.float32, (len(asked), 301))


def test_weights_on_a_gpu_are_those_that_were_saved():
    """Those of int8 lose nothing: their whole numbers are exact in bf16, and scales are applied behind the product."""
    model = model_of(SHAPES[0], "int8")
    whole = model.embedding.dequantized()
    TorchDecoder(model, CPU, kind=torch.bfloat16)
    held = model.embedding
    assert held.weight.dtype == torch.bfloat16
    assert torch.equal(held.weight.float() * held.scale[:, None], whole)
    plain = make_model(SHAPES[0], 0).eval()
    before = plain.embedding.weight.clone()
    TorchDecoder(plain, CPU, kind=torch.bfloat16)
    assert torch.equal(plain.embedding.weight, before)
