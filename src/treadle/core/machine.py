"""What this machine and this installation are, for manifests and plans. Imports no torch."""

from __future__ import annotations

import os
import platform
import resource
from importlib import metadata
from pathlib import Path

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


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
