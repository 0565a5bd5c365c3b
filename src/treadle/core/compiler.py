"""The machine's own C compiler: the kernels' sources into a library, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from treadle.core.progress import say

NATIVE = ("-march=native",)
"""Flags: all instructions that this processor has."""
SECONDS = 300.0
"""How long the compiler may take."""
_SOURCES = Path(__file__).parent / "c"
_FLAGS = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


def compiler() -> list[str] | None:
    """``CC`` where it is set, else the first that is there; None where it is not."""
    given = shlex.split(os.environ.get("CC", ""))
    return next((words for words in ([given] if given else [["cc"], ["gcc"], ["clang"]]) if shutil.which(words[0])), None)


def cache_folder() -> Path:
    """Where compiled kernels are kept, as ``XDG_CACHE_HOME`` says (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "treadle"


def sources_digest() -> str:
    """That of the kernels' sources and of how they are compiled: libraries of another do not fit this code."""
    sources = [path.name + path.read_text(encoding="utf-8") for path in sorted(_SOURCES.iterdir())]
    return hashlib.sha256("\0".join([*_FLAGS, *sources]).encode()).hexdigest()[:16]


def compile_library(command: list[str], instructions: Sequence[str], library: Path) -> None:
    """Compile the kernels with the compiler's flags ``instructions``. Raises ``OSError`` and ``subprocess.SubprocessError``."""
    start = time.perf_counter()
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies in it is run
    with tempfile.TemporaryDirectory(dir=library.parent) as draft:
        made = Path(draft) / library.name
        files = [str(path) for path in _SOURCES.glob("*.c")]
        words = [*command, *_FLAGS, *instructions, "-o", str(made), *files, "-lm", "-lpthread"]
        subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS)
        with made.open("rb") as written:
            os.fsync(written.fileno())
        made.replace(library)  # whole or not at all, also where several processes compile at once
    which = "this processor" if instructions == NATIVE else " ".join(instructions)
    say(f"compiled the kernels for {which} in {time.perf_counter() - start:.1f} s; they stay in {library.parent}")
