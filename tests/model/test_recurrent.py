"""Recurrent nets over rows of different lengths, and what their work is counted as."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from treadle.model.flops import forward_flops
from treadle.model.trunks.recurrent import run_net

CELLS = [nn.LSTM, nn.GRU]


@settings(max_examples=25, deadline=None)
@given(
    cell=st.sampled_from(CELLS), depth=st.integers(1, 3), both=st.booleans(),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_equals_torchs_packed_sequence_in_values_and_gradients(cell, depth: int, both: bool, lengths: list[int]):
    torch.manual_seed(0)
    net = cell(5, 7, depth, batch_first=True, bidirectional=both).double()
    wide, sizes = max(lengths) + 2, torch.tensor(lengths)
    x = torch.randn(len(lengths), wide, 5, dtype=torch.float64, requires_grad=True)
    weighing = torch.randn(len(lengths), wide, 7 * (1 + both), dtype=torch.float64)

    packed = pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(net(packed)[0], batch_first=True, total_length=wide)[0]
    wanted = torch.autograd.grad((expected * weighing).sum(), [x, *net.parameters()])
    got = run_net(net, x, sizes)
    found = torch.autograd.grad((got * weighing).sum(), [x, *net.parameters()])

    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_drop_out_in_training_alone(cell):
    torch.manual_seed(0)
    net, x, sizes = cell(4, 6, 2, batch_first=True, dropout=0.5), torch.randn(3, 5, 4), torch.tensor([5, 2, 4])
    assert not torch.equal(run_net(net, x, sizes), run_net(net, x, sizes))
    net.eval()
    assert torch.equal(run_net(net, x, sizes), run_net(net, x, sizes))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [None, torch.tensor([5, 2, 4])])
def test_autocast_to_bf16_needs_no_kernel_for_it(cell, sizes: torch.Tensor | None):
    torch.manual_seed(0)
    net, x = cell(4, 6, batch_first=True, bidirectional=True), torch.randn(3, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run_net(net, x.bfloat16(), sizes)
    torch.testing.assert_close(inside, run_net(net, x, sizes), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [None, torch.tensor([7, 7, 7])])
def test_its_products_are_counted(cell, sizes: torch.Tensor | None):
    net = cell(8, 16, 2, batch_first=True, bidirectional=True)
    weights = sum(p.numel() for name, p in net.named_parameters() if "weight" in name)
    assert forward_flops(lambda: run_net(net, torch.randn(3, 7, 8), sizes)) == 2 * weights * 3 * 7
