"""Where and how tensors are computed: device, precision, threads, seed. A choice made from the hardware is stated."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from dataclasses import dataclass, replace

import torch

from treadle.core import machine

SMALL_STEP = 5e8
"""FLOPs of a training step below which a second thread is left out: on busy cores it costs many times what it can gain on quiet
ones (docs/experiments.md)."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX


@dataclass(frozen=True)
class Runtime:
    """``precision`` is that of matrix products in training; weights, sums and optimiser state are float32."""

    device: torch.device
    precision: str
    threads: int
    reason: str
    workers: int = 1
    """Parts of a batch that are computed side by side in training, each by one thread; 1: all threads work on the same part."""

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def beside(self, rows: int, divisible: bool) -> Runtime:
        """The same with a worker on each thread, where each then has as many of the ``rows`` that are computed at once, and what a
        part gives follows from it alone: not from rows counted together, nor from one stream of random numbers."""
        if self.device.type != "cpu" or self.threads == 1 or rows % self.threads or not divisible:
            return self
        return replace(self, workers=self.threads, reason=f"{self.reason}; each computes its own rows of a batch")


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory for the next step. By default every block above a size is mapped from the kernel anew,
    page by page and zeroed: a third of a small convolution net's step. Elsewhere than on glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` has bf16 matrix instructions; without them a CPU emulates bf16 many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def choose_runtime(precision: str = "auto", threads: int | None = None, step: float = float("inf")) -> Runtime:
    """A GPU where there is one, else the CPU; bf16 where it is native; a thread per core, or one where a ``step`` of so many FLOPs
    is small: on busy cores its threads would wait for one another many times longer than they work. Sets torch's thread count as a
    side effect."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = native_bf16(device)
    if precision == "auto":
        chosen = "bf16" if native else "float32"
        reason = f"{device.type} {'has' if native else 'has no'} native bf16"
    else:
        chosen, reason = precision, "given"
        if precision == "bf16" and not native:
            reason = f"given; {device.type} has no native bf16, so float32 would be faster"
    count = threads or machine.threads()
    if threads is None and count > 1 and step < SMALL_STEP:
        count, reason = 1, f"{reason}; a step of {step / 1e6:.2g} MFLOP is too short to share"
    torch.set_num_threads(count)
    keep_freed_memory()
    return Runtime(device, chosen, count, reason)


def matrix_peak(runtime: Runtime, seconds: float = 1.0, size: int = 1024) -> float:
    """Measured FLOP/s of a square matrix product in the runtime's precision: the best of as many as fit in ``seconds``."""
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=runtime.device).to(dtype)
    b = torch.randn(size, size, device=runtime.device).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the device
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2 * size**3 / best
