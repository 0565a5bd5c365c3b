"""Cross-entropy in chunks beside torch's own over all scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from treadle.model.layers import cross_entropy as chunked
from treadle.model.layers.cross_entropy import cross_entropy


def drawn(rows: int, width: int, vocabulary: int, seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sizes = ((rows, width), (vocabulary, width), (vocabulary,))
    x, weight, bias = (torch.randn(size, generator=draw, dtype=dtype) for size in sizes)
    targets = torch.randint(0, vocabulary, (rows,), generator=draw)
    return [x, weight, bias, targets, torch.rand(rows, generator=draw, dtype=dtype)]


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 40), st.booleans(), st.integers(0, 2**32))
def test_value_and_gradients_are_those_of_all_scores(rows: int, width: int, vocabulary: int, biased: bool, seed: int):
    *learned, targets, shares = drawn(rows, width, vocabulary, seed, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "SCORES_HELD", 64 * vocabulary)  # chunks of 64 rows
        ours = [tensor.clone().requires_grad_() for tensor in learned]
        loss = cross_entropy(ours[0], ours[1], ours[2] if biased else None, targets, shares)
        (3.0 * loss).backward()
    theirs = [tensor.clone().requires_grad_() for tensor in learned]
    scores = F.linear(theirs[0], theirs[1], theirs[2] if biased else None)
    plain = (F.cross_entropy(scores, targets, reduction="none") * shares).sum()
    (3.0 * plain).backward()
    assert torch.allclose(loss, plain, rtol=1e-12)
    for one, two in zip(ours[: 2 + biased], theirs, strict=False):
        assert one.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_float32_is_near_float64_however_large_the_scores(scale: float):
    x, weight, bias, targets, shares = drawn(1000, 32, 5000, 0, torch.float64)
    exact = (F.cross_entropy(F.linear(x * scale, weight, bias), targets, reduction="none") * shares).sum()
    near = cross_entropy(scale * x.float(), weight.float(), bias.float(), targets, shares.float())
    assert float(near) == pytest.approx(float(exact), rel=1e-5)


def test_bf16_multiplies_in_bf16_and_adds_in_float32():
    x, weight, _, targets, shares = drawn(512, 64, 300, 0, torch.float32)
    x.requires_grad_()
    exact = cross_entropy(x, weight, None, targets, shares)
    with torch.autocast("cpu", torch.bfloat16):
        near = cross_entropy(x, weight, None, targets, shares)
    near.backward()
    assert near.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert near.item() != exact.item()
    assert near.item() == pytest.approx(exact.item(), rel=3e-3)


def test_it_holds_no_more_than_a_chunk_of_scores():
    """Of 4,096 rows times 32,768 scores, 512 MB each time they are held, hardly any."""
    x, weight, _, targets, shares = drawn(4096, 8, 32_768, 0, torch.float32)
    held = [tensor.requires_grad_() for tensor in (x, weight)]
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.backward(cross_entropy(held[0], held[1], None, targets, shares))
    assert max(event.self_cpu_memory_usage for event in profile.events() or []) < 64e6
