"""FLOPs beside those that torch's own counter finds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from networks import TRUNKS, batch_of, make
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from treadle.core.batch import Batch
from treadle.core.layout import Layout
from treadle.model.flops import forward_flops
from treadle.model.network import make_network
from treadle.spec.model import Model


def theirs(work) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("trunk", [name for name in TRUNKS if name != "lstm"])
def test_networks_count_what_torch_counts(trunk: str):
    network, batch = make(trunk).eval(), batch_of(5)
    assert forward_flops(lambda: network.loss(batch)) == theirs(lambda: network.loss(batch)) > 0


def test_convolutions_count_what_torch_counts():
    image = {"image": {"size": 12}}
    model = Model.model_validate({
        "inputs": {"photo": image}, "trunk": {"conv": {"channels": [8, 16], "dense": [12]}}, "heads": {"kind": "category"},
    })
    pixels = Layout("image", height=12, width=12, channels=3, mean=(127.5,) * 3, deviation=(70.0,) * 3)
    kind = Layout("category", vocabulary=4, options={"smoothing": 0.0, "weight": 1.0})
    network = make_network(model, {"inputs": {"photo": pixels}, "heads": {"kind": kind}}, 0).eval()
    source = torch.Generator().manual_seed(0)
    photos = torch.randint(0, 256, (6, 12, 12, 3), generator=source, dtype=torch.uint8)
    batch = Batch({"photo": photos}, {"kind": torch.randint(0, 4, (6,), generator=source)})
    assert forward_flops(lambda: network.loss(batch)) == theirs(lambda: network.loss(batch)) > 0


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_alike_by_whichever_kernel(backend: SDPBackend):
    q, k, v = torch.randn(2, 4, 7, 8), torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
    with sdpa_kernel(backend):
        found = forward_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert found == 2 * 2 * 4 * 7 * 9 * (8 + 8)


def test_counting_does_not_load_the_compiler():
    code = (
        "import sys, torch; from treadle.model.flops import forward_flops; net = torch.nn.Linear(3, 4); "
        "assert forward_flops(lambda: net(torch.ones(5, 3))) == 120; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
