"""Where and how tensors are computed: device, precision, threads, seed. A choice made from the hardware is stated."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from treadle.core import machine, native
from treadle.core.errors import UserError
from treadle.core.fp8 import Fp8

SMALL_STEP = 5e8
"""FLOPs of a training step below which a second thread is left out: on busy cores it costs many times what it can gain on quiet
ones (docs/experiments.md)."""
SHORT_STEP = 5e7
"""FLOPs of a training step below which a processor takes float32: turning numbers into bf16 and back costs more than short products
save (docs/experiments.md)."""
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""What autocast takes; in fp8 that of all but the linear layers."""
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX


WAY = ("device", "precision", "threads", "workers", "kernels")
"""Of a runtime: what a training's rounding and time follow from."""


@dataclass(frozen=True)
class Runtime:
    """``precision`` is that of matrix products in training; weights and sums are float32."""

    device: torch.device
    precision: str
    threads: int
    reason: str
    workers: int = 1
    """Parts of a batch that are computed side by side in training, each by one thread; 1: all threads work on the same part."""
    kernels: bool = False
    """Whether kernels that were compiled for this processor compute what they can."""

    @property
    def way(self) -> dict[str, str | int | bool]:
        """``WAY`` as plain values, in that order."""
        return {name: self.device.type if name == "device" else getattr(self, name) for name in WAY}

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        half = _HALF.get(self.precision)
        outer = torch.autocast(self.device.type, half) if half else contextlib.nullcontext()
        inner = Fp8() if self.precision == "fp8" else contextlib.nullcontext()
        with outer, inner:
            yield

    @property
    def scales_loss(self) -> bool:
        """Whether small gradients are lost unless the loss is multiplied."""
        return self.precision == "fp16"

    def beside(self, rows: int, divisible: bool) -> Runtime:
        """The same with a worker on each thread, where each then has as many of the ``rows`` that are computed at once, and what a
        part gives follows from it alone: not from rows counted together, nor from one stream of random numbers. Such a worker takes
        compiled kernels, where there is a compiler, and so does all that is computed on one thread."""
        apart = self.device.type == "cpu" and rows % self.threads == 0 and divisible
        workers = self.threads if apart else self.workers
        single = self.device.type == "cpu" and (apart or self.threads == 1)
        able = single and self.precision in ("bf16", "float32") and native.kernels() is not None
        reason = self.reason + "; each computes its own rows of a batch" * (workers > 1) + "; with compiled kernels" * able
        return replace(self, workers=workers, kernels=able, reason=reason)


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory for the next step. By default every block above a size is mapped from the kernel anew,
    page by page and zeroed: a third of a small convolution net's step. All threads share what is freed, so that one fills another's
    gaps. Elsewhere than on glibc nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` has bf16 matrix instructions; without them a CPU emulates bf16 many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def native_fp16(device: torch.device) -> bool:
    """Whether ``device`` has matrix units for fp16 (Volta, Turing and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def native_fp8(device: torch.device) -> bool:
    """Whether ``device`` has matrix units for fp8 (Ada, Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def choose_precision(given: str, device: torch.device) -> tuple[str, str]:
    """``given``, or under ``auto`` the best that ``device`` computes natively, and why: bf16 before fp16, since it has the range of
    float32. Raises ``UserError`` for fp8 where it cannot be computed."""
    bf16, fp16 = native_bf16(device), native_fp16(device)
    if given == "auto":
        if bf16:
            return "bf16", f"{device.type} has native bf16"
        return ("fp16" if fp16 else "float32"), f"{device.type} has no native bf16" + " but fp16, with a loss scale" * fp16
    if given == "fp8" and not native_fp8(device):
        cure = "write 'precision: auto', which takes the best that this machine computes natively"
        needed = "fp8 needs a GPU of compute capability 8.9 or more"
        raise UserError(f"train.precision: {needed}, and this {device.type} is none", cure=cure)
    if (given == "bf16" and not bf16) or (given == "fp16" and not fp16):
        return given, f"given; {device.type} has no native {given}, so float32 would be faster"
    return given, "given"


def best_device() -> torch.device:
    """A GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_runtime(precision: str = "auto", threads: int | None = None, step: float = float("inf")) -> Runtime:
    """A GPU where there is one, else the CPU; bf16, or fp16, where it is native and a ``step`` of so many FLOPs long enough; a
    thread per core, or one where a step is small: on busy cores its threads would wait for one another many times longer than they
    work. Sets torch's thread count as a side effect."""
    device = best_device()
    chosen, reason = choose_precision(precision, device)
    if precision == "auto" and chosen == "bf16" and device.type == "cpu" and step < SHORT_STEP:
        chosen, reason = "float32", f"a step of {step / 1e6:.2g} MFLOP is too short for bf16"
    count = threads or machine.threads()
    if threads is None and count > 1 and step < SMALL_STEP:
        count, reason = 1, f"{reason}; a step of {step / 1e6:.2g} MFLOP is too short to share"
    torch.set_num_threads(count)
    keep_freed_memory()
    return Runtime(device, chosen, count, reason)


def matrix_peak(runtime: Runtime, seconds: float = 1.0, size: int = 1024) -> float:
    """Measured FLOP/s of a square matrix product in the runtime's precision: the best of as many as fit in ``seconds``."""
    dtype = _HALF.get(runtime.precision, torch.float32)
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
