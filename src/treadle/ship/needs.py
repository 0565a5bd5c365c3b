"""What a served version needs of a machine, by rules that the folder states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2
BASE = 512 * MIB
"""Bytes for Python, torch and the server, which were measured to take 330 MB with a tiny model, and room for their threads."""
TIMES = 5
"""The most that weights take: as they are stored (once), and as float32 while they compute, four bytes for each of int8."""
STEP = 64 * MIB
MARGIN = 15.0
"""Seconds beside ``serve.drain``: slow readers get the last of their answer, and the process ends."""


@dataclass(frozen=True)
class Needs:
    """Memory in MiB, time in seconds."""

    memory: int
    """Set aside for the server."""
    most_memory: int
    """Beyond which it is ended: half as much again, for the answers under way."""
    grace: int
    """From SIGTERM until it is ended by force."""


def needs_of(package: Path, drain: float) -> Needs:
    """What the files at ``package`` need, where answers are given ``drain`` seconds at the end."""
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    memory = _whole(BASE + TIMES * size)
    return Needs(memory, _whole(memory * MIB * 1.5), math.ceil(drain + MARGIN))


def _whole(count: float) -> int:
    """MiB, rounded up to a whole step."""
    return math.ceil(count / STEP) * STEP // MIB
