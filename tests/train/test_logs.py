"""Figures sent on to the trackers of others: what they have of a run, over an interruption and after trouble."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_boards import trained

from tiny import write_project
from treadle.core.errors import Interrupted
from treadle.core.project import load_project
from treadle.train.hooks import Step
from treadle.train.logs.tracker import Told, Tracker


class Fake(Tracker):
    """Keeps what it is sent; breaks at step ``breaks``."""

    name = "fake"
    breaks = 0

    def begin(self, earlier: str | None) -> None:
        self.earlier, self.sent, self.ended = earlier, list[tuple[int, Mapping[str, float]]](), ""
        self.remember("run 1")

    def send(self, figures: Mapping[str, float], step: int) -> None:
        if step == self.breaks:
            raise OSError("the server is away")
        self.sent.append((step, figures))

    def end(self, done: bool) -> None:
        self.ended = "done" if done else "stopped"


def opened(folder: Path, breaks: int = 0) -> Fake:
    tracker = Fake(Told("tiny", "model-a", {"train.batch": 4}, folder, folder))
    tracker.breaks = breaks
    tracker.open()
    return tracker


def figures(step: int, steps: int) -> Step:
    return Step(step, step * 8, step / 100, 1 / step, 0.1, 2.0, 800.0, step / steps, {"data": 0.001})


def test_a_tracker_has_every_step_of_a_short_run_and_a_thousand_of_a_long_one(tmp_path: Path):
    tracker = opened(tmp_path)
    for step in range(1, 11):
        tracker.on_step(figures(step, 10))
    tracker.on_validation(figures(10, 10), 0.25, None)
    tracker.close(True)
    assert [step for step, _ in tracker.sent] == [*range(1, 11), 10]
    assert tracker.sent[1][1] == {
        "train/loss": 0.5, "train/learning_rate": 0.1, "train/gradient_norm": 2.0, "train/tokens_per_second": 800.0,
        "seconds/data": 0.001,
    }
    assert tracker.sent[-1][1] == {"validation/loss": 0.25}
    assert tracker.ended == "done"
    again = opened(tmp_path)
    assert again.earlier == "run 1"
    for step in range(1, 5001):
        again.on_step(figures(step, 5000))
    assert 1000 <= len(again.sent) <= 1002


def test_trouble_is_said_once_and_ends_the_sending_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tracker = opened(tmp_path, breaks=3)
    for step in range(1, 11):
        tracker.on_step(figures(step, 10))
    tracker.on_validation(figures(10, 10), 0.25, None)
    tracker.close(True)
    assert [step for step, _ in tracker.sent] == [1, 2]
    assert capsys.readouterr().err.count("fake takes no more figures of this run (OSError: the server is away)") == 1


class Stop:
    """Ctrl-C at step 10."""

    def on_step(self, figures: Step) -> None:
        if figures.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        pass


def interrupted_and_gone_on(folder: Path, tracker: str) -> tuple[Any, list[dict[str, Any]]]:
    """The model, and its steps as its history has them."""
    words = (f"train.log_to=[{tracker}]",)
    with pytest.raises(Interrupted):
        trained(write_project(folder, *words), [Stop()])
    model = trained(load_project(folder, words))
    lines = [json.loads(line) for line in (model.path / "history.jsonl").read_text().splitlines()]
    return model, [line for line in lines if "loss" in line]


def test_mlflow_has_one_run_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install 'treadle[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model, steps = interrupted_and_gone_on(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / '.treadle' / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert (run.info.run_name, run.info.status) == (model.id, "FINISHED")
    assert run.data.params["train.clip"] == "1.0"
    sent = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert sent == pytest.approx({line["step"]: line["loss"] for line in steps})
    assert len(client.get_metric_history(run.info.run_id, "validation/loss")) == 10


def test_wandb_keeps_it_offline_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install 'treadle[wandb]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    model, steps = interrupted_and_gone_on(tmp_path, "wandb")
    kept = sorted((tmp_path / ".treadle" / "wandb" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(kept) == 2  # of each process one, of the same run
    assert len({path.stem for path in kept}) == 1
    assert model.id.encode() in kept[0].read_bytes()
    assert b"validation/loss" in kept[1].read_bytes()
    assert len(steps) == 30
