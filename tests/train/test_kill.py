"""kill -9 of a real process at a random step: going on gives the same losses and the same weights, bit for bit."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import SPEC, write_project

RUN = [sys.executable, "-m", "treadle", "run", "--json"]
LONG = ("train.budget=60 steps", "train.checkpoint_every=1 ms")
TRUNKS = {
    "transformer": SPEC.replace("hidden: 64}", "hidden: 64, dropout: 0.1}"),
    "lstm": re.sub(r"trunk: .*", "trunk: {recurrent: {width: 24, depth: 2, dropout: 0.1}}\n  heads: {next: next_token}", SPEC),
}


def command(folder: Path) -> list[str]:
    return [*RUN, "-f", str(folder), *(word for key in LONG for word in ("--set", key))]


def losses(model: Path) -> list[tuple[int, float | None, float | None]]:
    lines = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("validation_loss")) for line in lines]


def model_folder(folder: Path) -> Path:
    return next((folder / ".treadle" / "artifacts" / "model").iterdir())


@pytest.fixture(scope="module", params=TRUNKS)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    write_project(folder, text=TRUNKS[request.param])
    subprocess.run(command(folder), check=True, capture_output=True, timeout=300)
    return TRUNKS[request.param], model_folder(folder)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_twice_and_gone_on_it_is_the_same_run(tmp_path: Path, undisturbed: tuple[str, Path], seed: int):
    text, whole = undisturbed
    write_project(tmp_path, text=text)
    chance = random.Random(seed)
    resumed = []
    for _ in range(2):
        after = chance.randrange(3, 12)
        process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        start = sorted((tmp_path / ".treadle" / "work").glob("*/checkpoints/step-*"))
        first = int(start[-1].name[5:]) if start else 0
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            seen = sorted((tmp_path / ".treadle" / "work").glob("*/checkpoints/step-*"))
            if seen and int(seen[-1].name[5:]) >= first + after:
                break
            time.sleep(0.001)
        assert process.poll() is None, process.communicate()[1].decode()
        process.kill()
        process.wait()
        resumed.append(first)
    finished = subprocess.run(command(tmp_path), check=True, capture_output=True, timeout=300)
    assert b"going on from the checkpoint" in finished.stderr
    again = model_folder(tmp_path)
    assert losses(again) == losses(whole)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads((again / "manifest.json").read_text())["counts"]["resumed_at"] > 0
    assert not list((tmp_path / ".treadle" / "work").iterdir())
