"""Kernels compiled beforehand for machines that have no compiler: one library for each of several sets of instructions.

Imports no torch.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from treadle.core.compiler import cache_folder, compile_library, compiler, sources_digest
from treadle.core.progress import say

FOLDER = "TREADLE_KERNELS"
"""The environment variable that names the folder with them."""


@dataclass(frozen=True)
class Level:
    """A set of instructions of x86-64 (psABI, section 3.1.1, Micro-Architecture Levels, and what lies beyond)."""

    name: str
    flags: tuple[str, ...]
    """What the compiler is told."""
    needs: frozenset[str]
    """What the processor must say of itself, in Linux's words."""


_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level("x86-64-v4-vnni-bf16", ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"), _V4 | {"avx512_vnni", "avx512_bf16"}),
    Level("x86-64-v4-vnni", ("-march=x86-64-v4", "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Level("x86-64-v3", ("-march=x86-64-v3",), _V3),
)
"""The most capable first."""


def build(folder: Path) -> list[str]:
    """Compile every level into ``folder``; gives the names of those that could be. None where there is no compiler, or this is no
    x86-64; one that the compiler cannot make is left out: both are said. What was compiled once is kept and copied. Raises
    ``OSError`` where ``folder`` cannot be written."""
    command = compiler()
    if command is None or platform.machine().lower() not in ("x86_64", "amd64"):
        why = "there is no C compiler here" if command is None else f"this machine is {platform.machine()}"
        say(f"no kernels are built for machines without a compiler, since {why}; there torch's operations compute the layers")
        return []

    def make(level: Level) -> list[str]:
        kept = cache_folder() / _file(level)
        try:
            if not kept.exists():
                compile_library(command, level.flags, kept)
        except subprocess.SubprocessError as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
            say(f"'{shlex.join(command)}' made no kernels for {level.name}, which are left out: {detail}")
            return []
        shutil.copyfile(kept, folder / _file(level))
        return [level.name]

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        return [name for made in pool.map(make, LEVELS) for name in made]


def find() -> tuple[str, Path] | None:
    """The most capable level in the folder that ``TREADLE_KERNELS`` names which this processor has, of these very sources."""
    given = os.environ.get(FOLDER)
    if not given:
        return None
    has = instructions()
    return next(
        ((level.name, path) for level in LEVELS if level.needs <= has and (path := Path(given) / _file(level)).is_file()), None
    )


def instructions(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor says that it can, in Linux's words; nothing elsewhere."""
    if not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def _file(level: Level) -> str:
    return f"{level.name}-{sources_digest()}.so"
