"""Measurements of several systems in turn, each in a process of its own, so that a change of the machine's mood meets them all."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from treadle.core.machine import cores, processor

DISTURBED = 0.1


@dataclass(frozen=True)
class Result:
    """What one process measured; ``others`` is the share of the cores that other work took meanwhile."""

    speed: float
    peak_memory: int
    others: float
    extra: Mapping[str, Any]


def measure(script: str, words: Sequence[str], threads: int) -> Result:
    """Run ``script`` with ``words`` in a fresh process, which prints one JSON object with "speed" as its last line."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": str(threads)}
    before, own = psutil.cpu_times(), psutil.Process().cpu_times()
    output = subprocess.run([sys.executable, script, *words], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if output.returncode:
        sys.exit(f"{' '.join(words)} failed")
    after, ended = psutil.cpu_times(), psutil.Process().cpu_times()
    child = (ended.children_user - own.children_user) + (ended.children_system - own.children_system)
    total, idle = sum(after) - sum(before), after.idle - before.idle
    found = json.loads(output.stdout.strip().splitlines()[-1])
    return Result(found.pop("speed"), found.pop("peak_memory"), max(0.0, (total - idle - child) / total), found)


def alternate(
    script: str, systems: Mapping[str, Sequence[str]], rounds: int, threads: int, unit: str = "tokens/s", tries: int = 3
) -> dict[str, list[Result]]:
    """``rounds`` times each system in turn; every second round in reverse, so that none is always first.

    A round in which other work took more than ``DISTURBED`` of the cores is repeated, up to ``tries`` times as many rounds in all.
    Gives the undisturbed rounds, or all of them where none was.
    """
    every: list[dict[str, Result]] = []
    quiet: list[dict[str, Result]] = []
    while len(quiet) < rounds and len(every) < tries * rounds:
        found = {}
        for name in (list(systems), list(reversed(systems)))[len(every) % 2]:
            found[name] = measure(script, systems[name], threads)
            print(f"round {len(every) + 1}: {name}: {found[name].speed:,.1f} {unit}", file=sys.stderr)
        every.append(found)
        if max(result.others for result in found.values()) <= DISTURBED:
            quiet.append(found)
    return {name: [found[name] for found in quiet or every] for name in systems}


def table(results: Mapping[str, Sequence[Result]], unit: str = "tokens/s") -> str:
    """Medians, ranges, and the median over rounds of the first system's ratio to each, as Markdown."""
    ours = next(iter(results.values()))
    heads = ("", f"{unit}, median", "range", "the first is faster by", "peak memory, MB", "others' share of the cores")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in results.items():
        speeds = [result.speed for result in found]
        ratio = statistics.median(first.speed / other.speed for first, other in zip(ours, found, strict=True))
        lines.append(
            f"| {name} | {statistics.median(speeds):,.1f} | {min(speeds):,.1f} - {max(speeds):,.1f} | {ratio:.2f}x "
            f"| {max(result.peak_memory for result in found) / 1e6:,.0f} | {max(result.others for result in found):.0%} |"
        )
    return "\n".join(lines) + f"\n\nRounds: {len(ours)}."


def heading(what: str, versions: Mapping[str, str]) -> str:
    machine = f"{processor()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{what}\n\n{datetime.now(UTC):%Y-%m-%d}, {machine}, {packages}.\n"
