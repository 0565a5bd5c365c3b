"""What TensorBoard reads back of a run."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from treadle.core.progress import Task
from treadle.train.hooks import HistoryHook, ProgressHook, Step, TensorBoardHook


def figures(step: int, steps: int) -> Step:
    return Step(step, step * 8, step / 100, 1 / step, 0.1, 2.0, 800.0, step / steps, {})


def events(folder: Path) -> list[Event]:
    """All records of the folder's files, by TFRecord's layout: length, its checksum, content, its checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def test_a_short_run_is_written_whole(tmp_path: Path):
    hook = TensorBoardHook(tmp_path, 0)
    for step in range(1, 11):
        hook.on_step(figures(step, 10))
    hook.on_validation(figures(10, 10), 0.25, 0.125)
    hook.close()
    values = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert [step for step, tag, _ in values if tag == "train/loss"] == list(range(1, 11))
    assert values[0] == (1, "train/loss", 1.0)
    assert values[-2:] == [(10, "validation/loss", 0.25), (10, "train/loss_eval", 0.125)]


def test_a_long_run_is_thinned_evenly(tmp_path: Path):
    hook = TensorBoardHook(tmp_path, 0)
    for step in range(1, 5001):
        hook.on_step(figures(step, 5000))
    hook.close()
    steps = [e.step for e in events(tmp_path) if e.summary.value]
    assert 1000 <= len(steps) <= 1002
    assert {b - a for a, b in pairwise(steps[1:-1])} <= {4, 5, 6}


def test_a_run_that_goes_on_takes_back_what_was_undone(tmp_path: Path):
    TensorBoardHook(tmp_path, 0).close()
    hook = TensorBoardHook(tmp_path, 7)
    hook.on_step(figures(8, 10))
    hook.close()
    restarts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert restarts == [8]
    assert len(list(tmp_path.iterdir())) == 2


def test_another_process_need_not_wait_for_the_history(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    hook = HistoryHook(path, 0)
    hook.on_step(figures(1, 1000))
    assert path.read_text().count("\n") == 1
    hook.on_step(figures(2, 1000))  # a hundredth of a second later
    assert path.read_text().count("\n") == 1
    hook.on_step(figures(60, 1000))
    assert path.read_text().count("\n") == 3
    hook.on_step(figures(61, 1000))
    hook.on_validation(figures(61, 1000), 0.5, None)
    assert path.read_text().count("\n") == 5
    hook.close()


def test_the_line_of_progress_says_where_the_time_goes_and_is_short():
    task = Task("training", 1.0, "", None)
    said: list[str] = []
    task.at = lambda done, note="": said.append(note)  # type: ignore[method-assign]
    hook = ProgressHook(task, 3.5e6, 8e10)
    spent = {"data": 0.001, "forward": 0.03, "backward": 0.06, "optimizer": 0.009}
    hook.on_validation(figures(1, 10), 2.413, None)
    hook.on_step(Step(11, 88, 0.2, 2.312, 0.1, 2.0, 12_345.0, 0.5, spent))
    assert said == [
        "12.3k tokens/s, 43.2 GFLOP/s (54% of peak), loss 2.312, validation 2.413, backward 60% forward 30%"
    ]
    hook.on_step(Step(12, 96, 0.21, 2.312, 0.1, 2.0, 12_345.0, 0.6, {"data": 1.0}))  # too soon for another look
    hook.on_step(Step(13, 104, 0.4, 2.312, 0.1, 2.0, 12_345.0, 0.7, {"data": 1.0, "forward": 1.0}))
    assert said[1].endswith("data 67% forward 33%")
    assert max(map(len, said)) <= 100
