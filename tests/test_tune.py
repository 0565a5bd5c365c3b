"""A search tries what it is told, judges by the validation part alone, drops what is hopeless, and goes on where it was stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from treadle.core.errors import Interrupted, UserError
from treadle.core.project import SpecError, load_project
from treadle.show import tuned
from treadle.spec.load import read
from treadle.train.stage import train_model
from treadle.tune import Found, Search

SPEC = """\
name: sums
data:
  sources: [{table: rows.csv, licence: CC0-1.0}]
  split: {test: 20%, validation: 30%}
  clean: {dedupe: none}
model:
  inputs: {a: number, b: number}
  trunk: {mlp: {width: 8, depth: 1}}
  heads: {big: binary}
train: {budget: 40 steps, batch: 32, threads: 1, precision: float32, validate_every: 25%}
tune:
  trials: 6
  search:
    train.learning_rate: {low: 0.000001, high: 0.1, log: true}
    model.trunk.mlp.width: {low: 2, high: 16}
    model.trunk.mlp.activation: [relu, tanh]
"""


def write(folder: Path, text: str = SPEC) -> Path:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(400, 2))
    lines = [f"{a:.4f},{b:.4f},{'yes' if a + b > 0.3 else 'no'}" for a, b in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("\n".join(["a,b,big", *lines]) + "\n")
    (folder / "treadle.yaml").write_text(text)
    return folder


def search(folder: Path, *overrides: str) -> Found:
    return Search(load_project(folder, overrides), overrides).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Eight trials without a stop."""
    return search(write(tmp_path_factory.mktemp("whole")), "tune.trials=8")


def test_what_is_tried_lies_in_the_ranges_and_is_judged(whole: Found):
    assert [trial["number"] for trial in whole.trials] == list(range(1, 9))
    for trial in whole.trials:
        settings = trial["settings"]
        assert 1e-6 <= settings["train.learning_rate"] <= 0.1
        assert settings["model.trunk.mlp.width"] in range(2, 17)
        assert settings["model.trunk.mlp.activation"] in ("relu", "tanh")
    done = [trial["value"] for trial in whole.trials if trial["state"] == "complete"]
    assert whole.best["value"] == min(done) < max(done)
    assert set(whole.importance) == set(whole.trials[0]["settings"])
    assert max(whole.importance, key=whole.importance.__getitem__) == "train.learning_rate"


def test_the_value_is_the_validation_loss_of_a_run_with_those_settings(tmp_path: Path):
    folder = write(tmp_path)
    found = search(folder, "tune.trials=1")
    assert not list((folder / ".treadle").glob("artifacts/scorecard/*")), "the test part is not looked at"
    assert not list((folder / ".treadle").glob("artifacts/model/*")), "no trial's model is kept"
    assert not list((folder / ".treadle" / "trials").iterdir())
    words = [f"{key}={json.dumps(value)}" for key, value in found.best["settings"].items()]
    command = [sys.executable, "-m", "treadle", "run", "-f", str(folder), *(word for w in words for word in ("--set", w))]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (history,) = (folder / ".treadle" / "artifacts" / "model").glob("*/history.jsonl")
    last = [json.loads(line) for line in history.read_text().splitlines() if "validation_loss" in line][-1]
    assert last["validation_loss"] == found.best["value"]


def test_what_is_said_can_be_used(whole: Found):
    lines = "\n".join(tuned(whole.as_dict()))
    assert "8 trials" in lines
    settings = whole.best["settings"]
    assert f"--set 'train.learning_rate={settings['train.learning_rate']}'" in lines
    assert f"--set 'model.trunk.mlp.activation=\"{settings['model.trunk.mlp.activation']}\"'" in lines


def test_hopeless_trials_are_cut_short(tmp_path: Path):
    """The sixth and later ones are compared with the median of the first five."""
    folder = write(tmp_path, SPEC.replace("trials: 6", "trials: 14"))
    found = search(folder)
    states = [trial["state"] for trial in found.trials]
    assert states[:5] == ["complete"] * 5
    pruned = [trial for trial in found.trials if trial["state"] == "pruned"]
    assert pruned
    assert all("above the median" in trial["why"] and trial["value"] is None for trial in pruned)


def test_a_figure_may_be_the_measure(tmp_path: Path):
    found = search(write(tmp_path), "tune.measure=accuracy", "tune.trials=3")
    values = [trial["value"] for trial in found.trials if trial["value"] is not None]
    assert found.best["value"] == max(values)
    assert all(0 <= value <= 1 for value in values)


def test_stopped_it_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path, whole: Found, monkeypatch: pytest.MonkeyPatch):
    folder, calls = write(tmp_path), []

    def train(*args: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted("stopped at step 7")
        return train_model(*args)

    monkeypatch.setattr("treadle.tune.train_model", train)
    with pytest.raises(Interrupted, match="3 of 8 trials are done") as stopped:
        search(folder, "tune.trials=8")
    assert len(stopped.value.figures["trials"]) == 3
    found = search(folder, "tune.trials=8")
    assert len(calls) == 9
    assert [t["settings"] for t in found.trials] == [t["settings"] for t in whole.trials]
    assert [t["value"] for t in found.trials] == [t["value"] for t in whole.trials]
    assert found.best["value"] == whole.best["value"]
    again = search(folder, "tune.trials=8")
    assert len(calls) == 9
    assert again.best == found.best


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 75), (signal.SIGTERM, 75)])
def test_a_killed_process_loses_nothing_that_was_done(tmp_path: Path, postgres: str, sent: signal.Signals, code: int):
    """On a real PostgreSQL, which is told by the environment; the trial in hand goes on from its checkpoint."""
    text = SPEC.replace("budget: 40 steps", "budget: 400 steps, checkpoint_every: 20 ms").replace("trials: 6", "trials: 4")
    folder = write(tmp_path, text.replace("tune:\n", "tune:\n  storage: $TRIALS\n"))
    command = [sys.executable, "-m", "treadle", "tune", "-f", str(folder), "--json"]
    environment = {"TRIALS": postgres, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list((folder / ".treadle" / "trials").glob("*/work/*/checkpoints/step-*")):
            break
        time.sleep(0.005)
    process.send_signal(sent)
    said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert list((folder / ".treadle" / "trials").glob("*/work/*/checkpoints/step-*")), "it was cut off in a trial"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert len(found["trials"]) == 4
    assert "going on from the checkpoint" in again.stderr
    assert not (folder / ".treadle" / "trials.db").exists()


def test_settings_that_fail_are_counted_with_the_reason(tmp_path: Path):
    text = SPEC.replace("{low: 0.000001, high: 0.1, log: true}", "[0.01, 1.0e+30]").replace("trials: 6", "trials: 5")
    found = search(write(tmp_path, text))
    failed = [trial for trial in found.trials if trial["state"] == "fail"]
    assert failed
    assert all(trial["settings"]["train.learning_rate"] == 1e30 and "loss" in trial["why"] for trial in failed)
    assert found.best["settings"]["train.learning_rate"] == 0.01


@pytest.mark.parametrize(("old", "new", "said"), [
    ("train.learning_rate", "train.learning_rat", "learning_rate"), ("[relu, tanh]", "[relu, tan]", "tan"),
    ("low: 0.000001", "low: -1.0", "above 0"), ("mlp.width: {low: 2,", "mlp.depth: {low: 0,", "model.trunk.mlp.depth"),
    ("low: 2, high: 16", "low: 16, high: 16", "not below"),
])
def test_what_cannot_be_searched_is_said_before_any_work(tmp_path: Path, old: str, new: str, said: str):
    folder = write(tmp_path, SPEC.replace(old, new, 1))
    with pytest.raises(SpecError, match=said):
        search(folder)
    assert not (folder / ".treadle" / "artifacts").exists()


def test_a_search_for_nothing_or_by_nothing_is_refused(tmp_path: Path):
    folder = write(tmp_path, SPEC[: SPEC.index("tune:")])
    with pytest.raises(UserError, match="names nothing"):
        search(folder)
    with pytest.raises(UserError, match="not a figure"):
        search(write(tmp_path / "b"), "tune.measure=rmse")
    with pytest.raises(UserError, match=r"tune\.storage"):
        search(write(tmp_path / "c"), "tune.storage=sqlite:////nowhere/at/all.db")
    assert isinstance(read(SPEC + "  storage: 5\n", "x"), list)
