"""A training watched from another process: what a frame says, how the curve lies, and that watching ends when it should."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from report_world import World, history, make, model_counts
from typer.testing import CliRunner

from treadle.cli import app
from treadle.report.braille import MARK, text_chart
from treadle.report.watch import Watcher
from treadle.store.artifacts import write_json
from treadle.store.notes import write_note

NOTE = {
    "model": "model-00000000000000aa", "unit": "tokens", "budget": "400 steps", "steps": 400, "seconds": None, "flops": 1e6,
    "peak": 1e10,
}
DOTS = re.compile("[\u2801-\u28ff]")


def begin(world: World, done: int = 200, **note: object) -> Path:
    """The workspace of a training that this process is at."""
    workspace = world.store.workspace("model-00000000000000aa")
    history(workspace, done)
    write_note(workspace, NOTE | note)
    return workspace


def frame(world: World) -> str:
    done = CliRunner().invoke(app, ["watch", "--once", "-f", str(world.project.folder)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    return done.output


def seen(world: World) -> dict[str, object]:
    done = CliRunner().invoke(app, ["watch", "--json", "-f", str(world.project.folder)])
    return dict(json.loads(done.output))


def test_what_is_going_on_is_shown_at_80_columns(empty: World) -> None:
    workspace = begin(empty)
    text = frame(empty)
    lines = [json.loads(line) for line in (workspace / "history.jsonl").read_text().splitlines()]
    lowest, step = min((line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line)
    for words in (
        "is being trained", "50%, step 200 of 400, 3 min 00 s so far, 3 min 00 s left", f"the lowest {lowest:.4g} at step {step}",
        "2280 tokens/s (23% of the matrix peak)", "rate 2.1e-05", MARK,
    ):
        assert words in text, words
    assert len(DOTS.findall(text)) > 50
    found = seen(empty)
    assert (found["state"], found["step"], found["steps"], found["progress"]) == ("running", 200, 400, 0.5)
    assert found["seconds_left"] == pytest.approx(180, rel=0.01)
    assert found["best_step"] == step


def test_a_budget_of_time_has_its_own_time_left(empty: World) -> None:
    begin(empty, steps=None, seconds=240.0, budget="4 min")
    found = seen(empty)
    assert found["progress"] == pytest.approx(0.75)
    assert found["seconds_left"] == pytest.approx(60)
    assert "budget 4 min" in frame(empty)


def test_what_was_stopped_what_is_done_and_nothing_at_all(empty: World) -> None:
    assert "nothing was trained yet" in frame(empty)
    assert seen(empty)["state"] == "none"
    made = make(empty, "model", "model", [], model_counts(200), history)
    assert f"{made} is the last one trained" in frame(empty)
    assert seen(empty)["state"] == "done"
    workspace = begin(empty)
    process = subprocess.Popen(["true"])
    process.wait()
    note = json.loads((workspace / "run.json").read_text())
    write_json(workspace / "run.json", note | {"process": [note["process"][0], process.pid, 0.0]})
    assert "was stopped; 'treadle run' goes on with it" in frame(empty)
    assert seen(empty)["progress"] == 0.5
    write_json(workspace / "run.json", note | {"process": [note["process"][0], process.pid, 0.0], "started": "2020"})
    assert seen(empty)["state"] == "done"  # the model was made later


def test_only_whole_new_lines_are_read_until_the_run_goes_on_elsewhere(empty: World) -> None:
    workspace = begin(empty, 100)
    watcher, path = Watcher(empty.store.root), workspace / "history.jsonl"
    assert watcher.look().steps[-1]["step"] == 100
    with path.open("a") as stream:
        stream.write('{"step": 101, "tokens": 206848, "seconds": 91.0, "loss": 2.2, "learning_rate": 0.1, "gradient_norm": 1.0, ')
        stream.flush()
        assert watcher.look().steps[-1]["step"] == 100
        stream.write('"tokens_per_second": 2300.0}\n')
    assert [line["step"] for line in watcher.look().steps] == list(range(1, 102))
    begin(empty, 50)
    assert [line["step"] for line in watcher.look().steps] == list(range(1, 51))


def test_the_curve_lies_where_the_points_are() -> None:
    down = text_chart([(x, 100.0 - x) for x in range(100)], [(99.0, 100.0)], 60, 8)
    assert len(down) == 10
    rows = [[match.start() for match in DOTS.finditer(line)] for line in down]
    filled = [row for row in rows if row]
    assert all(max(a) <= min(b) + 2 for a, b in pairwise(filled))  # falls from left to right
    assert down[0].index(MARK) == max(len(line) for line in down) - 1  # top right
    assert text_chart([], [], 60, 8) == []
    assert text_chart([(1.0, float("nan")), (2.0, 3.0)], [], 60, 8)
    flat = text_chart([(float(x), 1.0) for x in range(50)], [], 60, 8)
    assert len([line for line in flat if DOTS.search(line)]) == 1


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis() -> None:
    halving = text_chart([(float(x), 64.0 * 0.5 ** (x / 10)) for x in range(61)], [], 72, 12)
    places = [(row, match.start()) for row, line in enumerate(halving) for match in DOTS.finditer(line)]
    middle = [row for row, column in places if 33 <= column <= 43]
    assert 4 <= sum(middle) / len(middle) <= 7  # a straight line, half way down at half time
    assert {"50 ┤", "10 ┤"} <= {line.strip()[:4] for line in halving}


def watching(world: World) -> tuple[subprocess.Popen[bytes], int]:
    """``treadle watch`` in a terminal of its own."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "treadle", "watch", "-f", str(world.project.folder)]
    env = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    listens = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env, preexec_fn=listens)
    os.close(theirs)
    return process, ours


def read_until(terminal: int, words: str, seconds: float = 60.0) -> str:
    text, deadline = "", time.monotonic() + seconds
    while words not in text:
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                text += os.read(terminal, 65536).decode("utf-8", "replace")
            except OSError:  # closed from the other side
                assert words in text, text
    return text


def test_ctrl_c_ends_the_watching_alone(empty: World) -> None:
    begin(empty)
    process, terminal = watching(empty)
    read_until(terminal, "is being trained")
    process.send_signal(signal.SIGINT)
    read_until(terminal, "the training goes on")
    assert process.wait(timeout=30) == 0
    os.close(terminal)


def test_it_ends_when_the_training_does(empty: World) -> None:
    workspace = begin(empty)
    process, terminal = watching(empty)
    read_until(terminal, "step 200 of 400")
    with (workspace / "history.jsonl").open("a") as stream:
        line = {"step": 300, "tokens": 614_400, "seconds": 270.0, "loss": 2.1, "learning_rate": 0.1, "gradient_norm": 1.0}
        stream.write(json.dumps(line | {"tokens_per_second": 2300.0}) + "\n")
    read_until(terminal, "step 300 of 400")  # the frame is drawn again
    make(empty, "model", "model", [], model_counts(200), history)
    shutil.rmtree(workspace)
    read_until(terminal, "'treadle report' tells more")
    assert process.wait(timeout=30) == 0
    os.close(terminal)
