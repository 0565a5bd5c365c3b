"""Kernels in C, compiled once for this processor by its own compiler and kept; where there is none, torch's operations do the work.

Imports no torch, so that a plan's arithmetic can ask what there is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from treadle.core.machine import processor
from treadle.core.progress import say

_SOURCES = Path(__file__).parent / "c"
_FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_SUFFIX = {"torch.bfloat16": "bf16", "torch.float32": "float32", "torch.int8": "int8"}
KINDS = frozenset(_SUFFIX) - {"torch.int8"}
"""Names of the types of numbers that activations may have."""
_PLAIN = {int: ctypes.c_int64, float: ctypes.c_float}
_ITEM: dict[type, Any] = {int: ctypes.c_int64, float: ctypes.c_double}
_SECONDS = 300.0
_VECTOR = 16  # numbers
_lock = threading.Lock()


class Array(Protocol):
    """A tensor, as far as a kernel needs to know."""

    def data_ptr(self) -> int: ...
    def is_contiguous(self) -> bool: ...


Given = Array | int | float | None | list[Any]


class Kernels:
    """The functions of the library, by name. Tensors are contiguous, and float32 where the C does not say REAL."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._functions: dict[tuple[str, object], Any] = {}

    def __call__(self, name: str, kind: object, *given: Given) -> int:
        """Call ``name`` for activations of ``kind``, a torch.dtype. Other threads go on meanwhile. Of a list, the C has an array:
        of pointers, int64 or double. What it gives counts where the C gives something."""
        function = self._functions.get((name, kind))
        if function is None:
            function = getattr(self._library, f"{name}_{_SUFFIX[str(kind)]}")
            function.restype = ctypes.c_int64
            function.argtypes = [_PLAIN.get(type(each), ctypes.c_void_p) for each in given]
            self._functions[name, kind] = function
        found: int = function(*[each if each is None or isinstance(each, (int, float)) else _address(each) for each in given])
        return found

    def attends(self, kind: object, features: int) -> bool:
        """Whether attention in ``kind`` with so many ``features`` a head is among them on this processor."""
        return features % _VECTOR == 0 and hasattr(self._library, f"attention_{_SUFFIX[str(kind)]}")


def _address(given: Array | list[Any]) -> Any:
    if isinstance(given, list):
        item = _ITEM.get(type(given[0]))
        if item is not None:
            return (item * len(given))(*given)
        return (ctypes.c_void_p * len(given))(*[None if each is None else each.data_ptr() for each in given])
    assert given.is_contiguous()
    return given.data_ptr()


def kernels() -> Kernels | None:
    """The compiled library; None, said once, where none can be made."""
    with _lock:
        return _kernels()


@cache
def _kernels() -> Kernels | None:
    command = compiler()
    if command is None:
        say("no C compiler (cc, gcc, clang, or what CC names): torch's operations compute the layers, which takes longer")
        return None
    try:
        library = _library(command)
        if not library.exists():
            _compile(command, library)
        try:
            return Kernels(ctypes.CDLL(str(library)))
        except OSError:  # damaged since it was written
            _compile(command, library)
            return Kernels(ctypes.CDLL(str(library)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        say(f"'{shlex.join(command)}' made no kernels, so torch's operations compute the layers, which takes longer: {detail}")
        return None


def compiler() -> list[str] | None:
    """``CC`` where it is set, else the first that is there; None where it is not."""
    given = shlex.split(os.environ.get("CC", ""))
    return next((words for words in ([given] if given else [["cc"], ["gcc"], ["clang"]]) if shutil.which(words[0])), None)


def cache_folder() -> Path:
    """Where compiled kernels are kept, as ``XDG_CACHE_HOME`` says (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "treadle"


def _library(command: list[str]) -> Path:
    """That of these sources, this compiler and this processor, be it there or not: its name follows from all that the compiler
    knows of itself and of the processor's instructions, which processors of one name do not always share."""
    words = [*command, *_FLAGS[:2], "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    sources = [path.name + path.read_text(encoding="utf-8") for path in sorted(_SOURCES.iterdir())]
    known = "\0".join([processor(), macros, *command, *_FLAGS, *sources])
    return cache_folder() / f"kernels-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"


def _compile(command: list[str], library: Path) -> None:
    start = time.perf_counter()
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies in it is run
    with tempfile.TemporaryDirectory(dir=library.parent) as draft:
        made = Path(draft) / library.name
        files = [str(path) for path in _SOURCES.glob("*.c")]
        words = [*command, *_FLAGS, "-o", str(made), *files, "-lm", "-lpthread"]
        subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS)
        with made.open("rb") as written:
            os.fsync(written.fileno())
        made.replace(library)  # whole or not at all, also where several processes compile at once
    say(f"compiled the kernels for this processor in {time.perf_counter() - start:.1f} s; they stay in {library.parent}")
