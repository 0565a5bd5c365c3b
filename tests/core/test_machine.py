"""What the machine says of itself, against the system's own figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import treadle
from treadle.core import machine


def test_the_environment_is_plain_text_and_complete() -> None:
    found = machine.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["treadle"] == treadle.__version__
    assert found["torch"].startswith("2.")
    assert found["python"] == sys.version.split()[0]
    assert all(isinstance(value, str) and value for value in found.values())


def test_cores_are_those_that_this_process_may_use() -> None:
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    script = f"{bind}; from treadle.core.machine import cores; print(cores())"
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs a system with processor affinity")
    assert machine.cores() == len(os.sched_getaffinity(0))
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"


@pytest.mark.parametrize(
    ("limit", "least"), [("150000 100000", 2), ("20000 100000", 1), ("max 100000", 64), ("", 64), ("9900000 100000", 64)]
)
def test_cores_keep_to_a_containers_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, least: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    (tmp_path / "cpu.max").write_text(limit)
    assert machine.cores(tmp_path / "cpu.max") == least


@pytest.mark.parametrize(("given", "least"), [("1", 1), ("4,2", 4), ("99", 64), ("0", 64), ("many", 64), ("", 64)])
def test_threads_keep_to_what_the_environment_allows(monkeypatch: pytest.MonkeyPatch, given: str, least: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert machine.threads() == min(least, machine.cores())


def test_free_memory_keeps_to_a_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "1000\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    assert 0 < machine.free_memory() <= psutil.virtual_memory().total
    files["/sys/fs/cgroup/memory.max"] = "5000\n"
    assert machine.free_memory() == 4000
    files["/sys/fs/cgroup/memory.current"] = "9000\n"
    assert machine.free_memory() == 0


def test_peak_memory_grows_with_what_is_used() -> None:
    script = "from treadle.core.machine import peak_memory as p; a = p(); b = bytearray(200 << 20); print(p() - a)"
    grown = int(subprocess.check_output([sys.executable, "-c", script], text=True))
    assert 150 << 20 < grown < 300 << 20
