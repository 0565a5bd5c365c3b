"""What this machine and this installation are, for manifests and plans. Imports no torch."""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import treadle

_PACKAGES = ("torch", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors that this process may use, the limit of a container included (``quota``: a file of Linux's cgroups, version 2)."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()
        return max(1, min(found, math.ceil(int(share) / int(period))))
    except (OSError, ValueError):  # none, or "max"
        return found


def threads() -> int:
    """Threads to compute with: one per core, or as few as ``OMP_NUM_THREADS`` allows."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores(), int(given)) if given.isdecimal() and int(given) else cores()


def free_memory() -> int:
    """Bytes that can be used without swapping, the limit of a container included."""
    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        if text != "max":
            free = min(free, max(0, int(text) - int(used.read_text())))
    except (OSError, ValueError):
        pass
    return free


def peak_memory() -> int:
    """Largest resident size of this process so far (bytes). On Linux from VmHWM: getrusage's figure also remembers the size of the
    process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def this_process() -> tuple[int, float]:
    """Its number and the second that it began at: a number alone may be given again."""
    return os.getpid(), psutil.Process().create_time()


def process_lives(number: int, since: float) -> bool:
    """Whether the process that ``this_process`` named is still there, on this machine."""
    try:
        process = psutil.Process(number)
        return abs(process.create_time() - since) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def way_in_words(way: Mapping[str, Any]) -> str:
    """How a training was computed (``core/runtime.py``, ``Runtime.way``), as a manifest has it."""
    threads, each = way["threads"], ", each with its own rows" if way["workers"] > 1 else ""
    how = ", with compiled kernels" if way.get("kernels") else ""
    return f"{way['device']} in {way['precision']} by {threads} thread{'s' * (threads > 1)}{each}{how}"


def environment() -> dict[str, str]:
    """Versions and machine, as they stand in every manifest."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "treadle": treadle.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": str(cores()),
        **versions,
    }
