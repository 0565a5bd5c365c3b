"""Kernels in C, compiled once for this processor by its own compiler and kept; where there is none, torch's operations do the work.

Imports no torch, so that a plan's arithmetic can ask what there is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from treadle.core.compiler import NATIVE, SECONDS, cache_folder, compile_library, compiler, sources_digest
from treadle.core.machine import processor
from treadle.core.prebuilt import FOLDER, find
from treadle.core.progress import say

_SUFFIX = {"torch.bfloat16": "bf16", "torch.float32": "float32", "torch.int8": "int8", "torch.uint4": "int4"}
KINDS = frozenset(_SUFFIX) - {"torch.int8", "torch.uint4"}
"""Names of the types of numbers that activations may have."""
_PLAIN = {int: ctypes.c_int64, float: ctypes.c_float}
_ITEM: dict[type, Any] = {int: ctypes.c_int64, float: ctypes.c_double}
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
        return _prebuilt()
    try:
        library = _library(command)
        if not library.exists():
            compile_library(command, NATIVE, library)
        try:
            return Kernels(ctypes.CDLL(str(library)))
        except OSError:  # damaged since it was written
            compile_library(command, NATIVE, library)
            return Kernels(ctypes.CDLL(str(library)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        say(f"'{shlex.join(command)}' made no kernels, so torch's operations compute the layers, which takes longer: {detail}")
        return None


def _prebuilt() -> Kernels | None:
    """Those that were compiled elsewhere for processors like this one."""
    found, slower = find(), "torch's operations compute the layers, which takes longer"
    if found is None:
        say(f"no C compiler (cc, gcc, clang, or what CC names), and no kernels in {FOLDER}: {slower}")
        return None
    name, library = found
    try:
        made = Kernels(ctypes.CDLL(str(library)))
    except OSError as error:
        say(f"the kernels {library} do not load, so {slower}: {error}")
        return None
    say(f"no C compiler: the kernels that were built for {name} compute the layers")
    return made


def _library(command: list[str]) -> Path:
    """That of these sources, this compiler and this processor, be it there or not: its name follows from all that the compiler
    knows of itself and of the processor's instructions, which processors of one name do not always share."""
    words = [*command, "-O3", *NATIVE, "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    known = "\0".join([processor(), macros, *command, sources_digest()])
    return cache_folder() / f"kernels-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
