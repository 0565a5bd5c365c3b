"""Layers against float64 references written from their papers."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import SHAPE
from treadle.model.layers.attention import Attention
from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.rope import rope_table, rotate
from treadle.model.layers.swiglu import SwiGLU
from treadle.model.model import make_model


def test_rms_norm_is_its_formula():
    norm = RMSNorm(16, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16)
    x64 = x.double().numpy()
    expected = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-5) * norm.weight.detach().double().numpy()
    assert np.allclose(norm(x).detach().numpy(), expected, atol=1e-6)


@given(st.integers(0, 40), st.integers(0, 2**31 - 1))
def test_rotation_is_multiplication_by_a_complex_number(position: int, seed: int):
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(seed))
    turned = rotate(x, rope_table(64, 8, 100.0)[:, position : position + 1])[0, 0, 0].double().numpy()
    pairs = x[0, 0, 0].double().numpy()
    z = (pairs[:4] + 1j * pairs[4:]) * np.exp(1j * position * 100.0 ** (-np.arange(0, 8, 2) / 8))
    assert np.allclose(turned, np.concatenate([z.real, z.imag]), atol=1e-5)


def test_scores_depend_on_distance_alone():
    table = rope_table(64, 8, 10_000.0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i: int, j: int) -> float:
        return float((rotate(q, table[:, i : i + 1]) * rotate(k, table[:, j : j + 1])).sum())

    assert abs(score(9, 4) - score(45, 40)) < 1e-5
    assert abs(score(9, 4) - score(9, 5)) > 1e-4


def test_attention_is_softmax_over_the_past():
    torch.manual_seed(0)
    layer = Attention(width=12, heads=4, kv_heads=2, head_dim=6, qk_norm=True, eps=1e-6)
    for norm in (layer.q_norm, layer.k_norm):
        torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    x, table = torch.randn(2, 7, 12), rope_table(7, 6, 50.0)
    w = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}

    def heads(name: str, count: int) -> np.ndarray:
        return (x.double().numpy() @ w[f"{name}.weight"].T).reshape(2, 7, count, 6)

    def normed(z: np.ndarray, name: str) -> np.ndarray:
        z = z / np.sqrt((z**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]
        turned = rotate(torch.from_numpy(z).transpose(1, 2), table.double())
        return turned.transpose(1, 2).numpy()

    q, k, v = normed(heads("q_proj", 4), "q_norm"), normed(heads("k_proj", 2), "k_norm"), heads("v_proj", 2)
    out = np.zeros((2, 7, 4, 6))
    for b, t, h in np.ndindex(2, 7, 4):
        scores = k[b, : t + 1, h // 2] @ q[b, t, h] / np.sqrt(6)
        share = np.exp(scores - scores.max())
        out[b, t, h] = (share / share.sum()) @ v[b, : t + 1, h // 2]
    expected = out.reshape(2, 7, 24) @ w["o_proj.weight"].T
    assert np.allclose(layer(x, table).detach().numpy(), expected, atol=1e-5)


def test_swiglu_is_its_formula():
    layer = SwiGLU(6, 10)
    x = torch.randn(2, 3, 6)
    g, u, d = (p.detach().double().numpy() for p in layer.parameters())
    x64 = x.double().numpy()
    gate = x64 @ g.T
    assert np.allclose(layer(x).detach().numpy(), ((gate / (1 + np.exp(-gate))) * (x64 @ u.T)) @ d.T, atol=1e-6)


def test_no_token_sees_what_follows():
    model = make_model(SHAPE, 0).eval()
    tokens = torch.randint(0, 300, (1, 20))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 300
    before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_weights_are_a_function_of_the_seed():
    one, same, other = (make_model(SHAPE, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["trunk.layers.0.mlp.up_proj.weight"], other["trunk.layers.0.mlp.up_proj.weight"])


def test_dropout_changes_training_only():
    model, tokens = make_model(SHAPE, 0, dropout=0.5), torch.randint(0, 300, (1, 8))
    assert not torch.equal(model.train().logits(tokens), model.logits(tokens))
    assert torch.equal(model.eval().logits(tokens), make_model(SHAPE, 0).eval().logits(tokens))
