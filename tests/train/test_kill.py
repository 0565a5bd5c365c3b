"""Real processes, killed at random steps: going on gives the same losses and the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kills import KINDS, Disturber, Result, Starter, checkpoints, newest, starter
from tiny import SPEC, write_project

RUN = [sys.executable, "-m", "treadle", "run", "--json"]
LONG = ("train.budget=60 steps", "train.checkpoint_every=1 ms")
WAYS = ("SIGKILL", "cut", "SIGTERM")


@pytest.fixture(scope="module")
def trainings() -> Iterator[Starter]:
    with starter() as found:
        yield found


def disturber(trainings: Starter, folder: Path, kind: str, seed: int) -> Disturber:
    return Disturber(trainings, folder, KINDS[kind].overrides, random.Random(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_three_times_it_is_the_undisturbed_run(tmp_path: Path, trainings: Starter, kind: str):
    for name in ("whole", "cut"):
        KINDS[kind].write(tmp_path / name)
    whole = disturber(trainings, tmp_path / "whole", kind, 0).finish()
    cut = disturber(trainings, tmp_path / "cut", kind, sum(map(ord, kind)))
    for way in WAYS:
        cut.kill(way)
    result = cut.finish()
    assert result.is_that_of(whole), trainings.said(tmp_path / "cut")
    assert result.counts["resumed_at"] > 0
    assert "is damaged" in trainings.said(tmp_path / "cut")
    assert not list((tmp_path / "cut" / ".treadle" / "work").iterdir())


def test_on_a_disk_that_fills_up_it_stops_and_goes_on_when_there_is_room(tmp_path: Path, trainings: Starter):
    """On a real file system, which is made smaller and larger again."""
    for name in ("whole", "cut"):
        KINDS["masked"].write(tmp_path / name)
    disk = tmp_path / "cut" / ".treadle"
    disk.mkdir()
    if os.getuid() != 0 or _mount("size=64m", disk):
        pytest.skip("needs the right to mount a small file system")
    try:
        whole = disturber(trainings, tmp_path / "whole", "masked", 0).finish()
        cut = disturber(trainings, tmp_path / "cut", "masked", 1)
        cut.kill("SIGKILL")
        shutil.rmtree(disk / "tmp", ignore_errors=True)
        left = os.statvfs(disk)
        assert not _mount(f"remount,size={(left.f_blocks - left.f_bfree) * left.f_frsize + 65_536}", disk)
        before = newest(tmp_path / "cut")
        assert trainings.wait(trainings.start(tmp_path / "cut", KINDS["masked"].overrides)) == 1
        assert "is full" in trainings.said(tmp_path / "cut")
        assert newest(tmp_path / "cut") >= before
        assert not list(disk.glob("work/*/checkpoints/draft-*"))
        assert not _mount("remount,size=64m", disk)
        cut.kill("SIGKILL")
        assert cut.finish().is_that_of(whole)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def _mount(options: str, folder: Path) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def command(folder: Path) -> list[str]:
    return [*RUN, "-f", str(folder), *(word for key in LONG for word in ("--set", key))]


def test_the_whole_command_stopped_in_every_stage_and_killed(tmp_path: Path, trainings: Starter):
    """SIGTERM while it prepares, trains and evaluates: exit code 75, nothing lost, in the end the same as undisturbed."""
    text = SPEC.replace("hidden: 64}", "hidden: 64, dropout: 0.1}")
    for name in ("whole", "cut"):
        write_project(tmp_path / name, text=text)
    whole = Disturber(trainings, tmp_path / "whole", LONG, random.Random(0)).finish()
    folder = tmp_path / "cut"
    said = {}
    stops = (("prepare", signal.SIGTERM), ("train", signal.SIGKILL), ("train", signal.SIGTERM), ("evaluate", signal.SIGTERM))
    for stage, sent in stops:
        first, deadline = newest(folder), time.monotonic() + 120
        process = subprocess.Popen(command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while time.monotonic() < deadline and process.poll() is None and not _reached(folder, stage, first + 5):
            time.sleep(0.001)
        process.send_signal(sent)
        output, said[stage] = process.communicate(timeout=60)
        assert process.returncode == (75 if sent == signal.SIGTERM else -9), (stage, said[stage])
        if sent == signal.SIGTERM:
            assert json.loads(output)["error"]["kind"] == "Interrupted"
            assert "run the same command again" in said[stage]
        if stage == "train" and sent == signal.SIGTERM:
            assert f"stopped at step {newest(folder)}; a checkpoint is written" in said[stage]
    assert "going on from the checkpoint" in said["evaluate"]
    finished = subprocess.run(command(folder), check=True, capture_output=True, text=True, timeout=300)
    assert json.loads(finished.stdout)["version"] == 1
    assert "model: cached" in finished.stderr
    assert Result.of(folder).is_that_of(whole)
    assert not checkpoints(folder)


def _reached(folder: Path, stage: str, step: int) -> bool:
    store = folder / ".treadle"
    if stage == "prepare":
        return store.exists()
    if stage == "train":
        return newest(folder) >= step
    return any(store.glob("artifacts/model/*/manifest.json")) and not any(store.glob("work/*"))
