"""FLOPs of what is computed, counted as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of ``work``, two for each multiplication and addition, without gradients."""
    layer = torch.ops.aten.mkldnn_rnn_layer  # which torch does not count by itself
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={layer: _recurrent_flops}) as counter:
        work()
    return int(counter.get_total_flops())


def _recurrent_flops(x: torch.Size, into: torch.Size, around: torch.Size, *_: Any, **__: Any) -> int:
    """Of one LSTM layer in one direction over ``x`` (T, B, D), with weights (4 H, D) and (4 H, H)."""
    return 2 * x[0] * x[1] * into[0] * (into[1] + around[1])
