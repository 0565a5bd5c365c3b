"""Whether compiled kernels compute something: they do so in one thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.core import native
from treadle.core.native import KINDS, Kernels


def kernels_for_all(*lists: Sequence[Tensor]) -> Kernels | None:
    """Those for tensors that are treated number by number; None: torch's operations do the work."""
    alike = all(x.dtype == torch.float32 and x.is_contiguous() and x.device.type == "cpu" for xs in lists for x in xs)
    return kernels_for(lists[0][0], torch.float32) if alike and lists[0] else None


def kernels_for(x: Tensor, kind: torch.dtype) -> Kernels | None:
    """Those for ``x`` in activations of ``kind``; None: torch's operations do the work. So it is on GPUs, in fp16, where several
    threads share each operation, and without a compiler."""
    able = x.device.type == "cpu" and str(kind) in KINDS and torch.get_num_threads() == 1
    return native.kernels() if able else None
