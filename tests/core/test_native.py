"""Kernels in C: made once, said where they cannot be, and each the formula that it stands for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from treadle.core.native import Kernels, compiler, kernels
from treadle.model.layers.rope import rope_table, rotate

KINDS = [torch.float32, torch.bfloat16]
USE = """
import torch
from treadle.core.native import kernels
run = kernels()
if run:
    x, y, scale = torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2)
    run("norm", torch.float32, 2, 3, x, None, 2 * torch.ones(3), 0.0, None, y, scale)
    print(y.tolist())
print(kernels() is run)
"""


@pytest.fixture(scope="module")
def run() -> Kernels:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    found = kernels()
    assert found
    return found


def use(folder: Path, **environment: str) -> tuple[list[str], str]:
    """Lines of a process of its own, and what it said."""
    known = os.environ | {"XDG_CACHE_HOME": str(folder)} | environment
    done = subprocess.run([sys.executable, "-c", USE], env=known, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr


@pytest.mark.usefixtures("run")
def test_kernels_are_compiled_once(tmp_path: Path):
    lines, said = use(tmp_path)
    assert lines == ["[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]", "True"]
    assert "compiled the kernels for this processor" in said
    made = list((tmp_path / "treadle").iterdir())
    assert [path.suffix for path in made] == [".so"]
    assert (tmp_path / "treadle").stat().st_mode & 0o077 == 0
    assert use(tmp_path) == (lines, "")
    made[0].write_bytes(b"damaged")
    again, said = use(tmp_path)
    assert again == lines
    assert "compiled the kernels" in said


def test_what_stands_in_for_kernels_is_said(tmp_path: Path):
    lines, said = use(tmp_path, CC="/nowhere/cc")
    assert lines == ["True"]
    assert said.count("no C compiler") == 1
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\n[ "$3" = -dM ] && exit 0\necho "no such instruction" >&2; exit 1\n')
    broken.chmod(0o755)
    lines, said = use(tmp_path / "cache", CC=str(broken))
    assert lines == ["True"]
    assert said.count("made no kernels") == 1
    assert "no such instruction" in said
    assert list((tmp_path / "cache" / "treadle").iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    if shutil.which("cc"):
        assert "made no kernels" in use(file)[1]


def close(found: Tensor, expected: Tensor) -> None:
    """As near as the kind of number allows."""
    wide = 1e-2 if found.dtype == torch.bfloat16 else 3e-6
    torch.testing.assert_close(found.double(), expected.double(), rtol=wide, atol=wide * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**31 - 1), st.floats(0.01, 1e4))
def test_softmax_over_what_is_known(run: Kernels, kind: torch.dtype, rows: int, documents: int, seed: int, size: float):
    """Scores of any size: the largest ones saturate, and nothing overflows."""
    torch.manual_seed(seed)
    seen, first = rows + seed % 70, seed % 70
    scores = size * torch.randn(documents, rows, seen)
    weights = torch.empty(documents, rows, seen, dtype=kind)
    run("softmax", kind, documents, rows, seen, first, 0.125, scores.clone(), weights)
    known = torch.ones(rows, seen, dtype=torch.bool).tril(first)
    exact = (0.125 * scores.double()).masked_fill(~known, -torch.inf).requires_grad_()
    expected = exact.softmax(-1)
    close(weights, expected.detach())
    grads = torch.randn(documents, rows, seen).to(kind)
    kept = grads.double().clone()
    run("softmax_back", kind, documents, rows, seen, first, 0.125, weights, grads)
    (back,) = torch.autograd.grad(expected, exact, kept)
    torch.testing.assert_close(grads.double(), 0.125 * back, rtol=0, atol=0.125 * (0.03 if kind == torch.bfloat16 else 1e-5))
    assert not grads.masked_select(~known).any()


@pytest.mark.parametrize("kind", KINDS)
def test_gated_product_of_any_size(run: Kernels, kind: torch.dtype):
    ends = torch.tensor([0.0, 1e-30, -1e-30, 20.0, -20.0, 87.0, -87.0, 89.0, -89.0, 1e4, -1e4, 3e38, -3e38])
    gate, up = torch.cat([ends, 3 * torch.randn(51)]), torch.cat([torch.ones(13), torch.randn(51)])
    both = torch.cat([gate, up])[None].to(kind)
    product, grad = torch.empty(1, 64, dtype=kind), torch.ones(1, 64, dtype=kind)
    run("swiglu", kind, 1, 64, both, product)
    one, two = (part.double().requires_grad_() for part in both[0].split(64))
    expected = F.silu(one) * two
    torch.testing.assert_close(product[0].double(), expected.detach(), rtol=1e-2 if kind == torch.bfloat16 else 1e-6, atol=1e-30)
    back = torch.empty(1, 128, dtype=kind)
    run("swiglu_back", kind, 1, 64, grad, both, back)
    assert torch.equal(grad, product)
    exact = torch.cat(torch.autograd.grad(expected.sum(), [one, two]))
    torch.testing.assert_close(back[0].double(), exact, rtol=1e-2 if kind == torch.bfloat16 else 2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 30, 64, 256])
def test_heads_are_normed_and_turned(run: Kernels, kind: torch.dtype, size: int):
    torch.manual_seed(size)
    count, length, H, K = 2, 5, 4, 2
    qkv = torch.randn(count * length, (H + 2 * K) * size).to(kind)
    norms, table = torch.rand(2, size) + 0.5, rope_table(9, size, 1e4)
    places = torch.arange(3, 3 + length).repeat(count)
    q, k, v = (torch.empty(count, H, length, size, dtype=kind) for _ in range(3))
    run("heads", kind, count, length, H, K, size, qkv, *norms, 1e-6, table, 9, places, q, k, v, None, None)
    exact, weights = qkv.double().requires_grad_(), norms.double().requires_grad_()
    parts = exact.view(count, length, H + 2 * K, size).split([H, K, K], 2)
    normed = [F.rms_norm(x, (size,), w, 1e-6).transpose(1, 2) for x, w in zip(parts, weights, strict=False)]
    turned = [rotate(x, table[:, 3:8].double()) for x in normed]
    expected = [turned[0], turned[1].repeat_interleave(2, 1), parts[2].transpose(1, 2).repeat_interleave(2, 1)]
    for found, one in zip((q, k, v), expected, strict=True):
        close(found, one.detach())
    grads = [torch.randn(count, H, length, size) for _ in range(3)]
    back, d_norms = torch.empty_like(qkv), torch.zeros(2, size)
    run("heads_back", kind, count, length, H, K, size, *grads, qkv, *norms, 1e-6, table, 9, places, back, *d_norms)
    found, d_weights = torch.autograd.grad(expected, [exact, weights], [grad.double() for grad in grads])
    close(back, found)
    close(d_norms, d_weights)


@pytest.mark.parametrize("kind", KINDS)
def test_surprise_of_large_scores_and_none_of_nan(run: Kernels, kind: torch.dtype):
    scores = torch.stack([torch.randn(77), 1e4 * torch.randn(77), torch.zeros(77), torch.full((77,), -3e38)]).to(kind)
    right, shares = torch.tensor([3, 76, 0, 5]), torch.tensor([0.5, 0.25, 2.0, 1.0])
    exact = scores.double().requires_grad_()
    expected = (F.cross_entropy(exact, right, reduction="none") * shares).sum()
    (grad,) = torch.autograd.grad(expected, exact)
    total = torch.zeros(1, dtype=torch.float64)
    run("surprise", kind, 4, 77, scores, right, shares, 1, total)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    close(scores, grad)
    bad, total = torch.full((1, 77), torch.nan).to(kind), torch.zeros(1, dtype=torch.float64)
    run("surprise", kind, 1, 77, bad, right[:1], shares[:1], 1, total)
    assert torch.isnan(total).all()
    assert torch.isnan(bad).all()
