"""Whether compiled kernels compute a layer: they do so in one thread."""

from __future__ import annotations

import torch
from torch import Tensor

from treadle.core import native
from treadle.core.native import KINDS, Kernels


def kernels_for(x: Tensor, kind: torch.dtype) -> Kernels | None:
    """Those for ``x`` in activations of ``kind``; None: torch's operations do the work. So it is on GPUs, in fp16, where several
    threads share each operation, and without a compiler."""
    able = x.device.type == "cpu" and str(kind) in KINDS and torch.get_num_threads() == 1
    return native.kernels() if able else None
