"""Plans: what fits, what it takes, and how it compares with what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from treadle.core.errors import SourceError, UserError
from treadle.core.project import Project, load_project
from treadle.core.runtime import choose_runtime
from treadle.plan import calibrate as calibration
from treadle.plan import estimate, sources, times
from treadle.plan.estimate import compare, make_plan
from treadle.plan.show import comparison_lines
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

YAML = """
name: tiny
data: {sources: [{files: "text/**/*.txt", licence: MIT, exclude: {drafts: ["drafts/**"]}}], clean: {max_size: 50 KB}}
model:
  inputs: {text: {tokenizer: {bpe: 300}, context: 32}}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
train: {budget: 40 steps, batch: 4}
plan: {power: 100, price: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "treadle.yaml").write_text(YAML)
    (tmp_path / "text" / "drafts").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "text" / f"{name}.txt").write_text("some words to learn from " * 800)
    (tmp_path / "text" / "long.txt").write_text("x" * 60_000)
    (tmp_path / "text" / "drafts" / "c.txt").write_text("y" * 1000)
    return tmp_path


@pytest.fixture(autouse=True)
def _little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing is timed once, however busy the machine is."""
    monkeypatch.setattr(calibration, "_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_BUSY", 1.0)


def project(folder: Path, *overrides: str) -> Project:
    return load_project(folder, overrides)


def planned(folder: Path, *overrides: str, ledger: Ledger | None = None) -> estimate.Plan:
    made = project(folder, *overrides)
    return make_plan(made, Store(made.store), ledger)


def test_a_plan_says_everything(folder: Path) -> None:
    plan = planned(folder)
    assert plan.fits
    assert plan.work is not None
    assert (plan.work.steps, plan.work.tokens) == (40, 40 * 4 * 32)
    assert plan.calibration is not None
    stage = {s.name: s.seconds for s in plan.stages}
    assert stage["train"] is not None
    assert stage["train"] >= 40 * plan.calibration.step_seconds
    assert plan.seconds == pytest.approx(sum(s or 0 for s in stage.values()))
    assert plan.energy == pytest.approx(plan.seconds / 3600 * 0.1)  # 100 W
    assert plan.money == pytest.approx(plan.seconds / 3600 * 2 + plan.energy * 0.25)
    found = json.loads(json.dumps(plan.as_dict()))
    text = "\n".join(plan.lines())
    for shown in ("fits", "parameters", "40 steps", "FLOPs", "prepare", "train", "evaluate", "compress", "Wh", "EUR", "plan.power"):
        assert shown in text
    assert {a["what"]: a["source"] for a in found["assumptions"]}["energy price"] == "stated default of plan.energy_price"
    assert {a["what"]: a["source"] for a in found["assumptions"]}["power"] == "plan.power"


def test_calibration_is_kept_and_its_age_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = planned(folder).calibration
    capsys.readouterr()
    second = planned(folder).calibration
    assert first
    assert second
    assert (first.cached, second.cached) == (False, True)
    assert second.step_seconds == first.step_seconds
    assert "was calibrated for this model" in capsys.readouterr().err
    other = planned(folder, "train.batch=8").calibration
    assert other
    assert not other.cached


def test_a_busy_machine_is_told_and_its_calibration_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_BUSY", -1.0)
    plan = planned(folder)
    assert plan.calibration
    assert plan.calibration.unsure
    assert "of the processor while" in "\n".join(plan.lines())
    again = planned(folder).calibration
    assert again
    assert not again.cached


@pytest.mark.parametrize("content", ["{cut", "[]", '{"a": {"b": 1}}', '{"a": 3}'])
def test_a_damaged_calibration_is_measured_anew(folder: Path, content: str) -> None:
    made = project(folder)
    made.store.mkdir(parents=True)
    (made.store / "calibration.json").write_text(content)
    found = planned(folder).calibration
    assert found
    assert not found.cached
    assert planned(folder).calibration == calibration.replace(found, cached=True)


def test_wall_time_gives_the_tokens_that_fit_into_it(folder: Path) -> None:
    plan = planned(folder, "train.budget=30 s")
    assert plan.calibration
    assert plan.work
    validation = 2 * plan.data.validation * plan.calibration.forward_seconds  # as much of the train part beside it
    assert plan.work.steps * plan.calibration.step_seconds + 9 * validation == pytest.approx(30, abs=plan.calibration.step_seconds)
    train = next(s.seconds for s in plan.stages if s.name == "train")
    assert train == pytest.approx(32 + validation + plan.calibration.step_seconds / 2, abs=0.1)


def test_what_will_not_fit_is_refused_at_once(folder: Path) -> None:
    start = time.monotonic()
    plan = planned(folder, "model.trunk.transformer.depth=100", "model.trunk.transformer.width=6400", "train.batch=1")
    assert time.monotonic() - start < 5
    assert not plan.fits
    assert plan.verdict.startswith("will not fit: 'train' needs")
    assert "depth: " in plan.cure
    assert plan.seconds is None
    assert plan.money is None
    assert not (project(folder).store / "calibration.json").exists()
    with pytest.raises(UserError, match="will not fit") as caught:
        plan.check()
    assert caught.value.exit_code == 2
    assert "not timed" in "\n".join(plan.lines())
    json.dumps(plan.as_dict())


def test_the_cure_for_memory_fits(folder: Path) -> None:
    given = ("train.batch=4096", "model.trunk.transformer.width=64", "plan.memory=450 MB")
    plan = planned(folder, *given)
    assert not plan.fits
    parts = plan.cure.split("train.accumulate: ")[1].split("'")[0]
    rows, shape = 4096 // int(parts), estimate.Shape(**plan.shape)
    made = project(folder, *given)
    runtime = choose_runtime(made.spec.train.precision, made.spec.train.threads).beside(rows, divisible=True)
    memory = estimate._memory(made, plan.data, runtime, shape, rows, True)
    assert all(stage.total <= 450_000_000 for stage in memory.values())


def test_a_full_disk_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    plan = planned(folder)
    assert not plan.fits
    assert "of disk" in plan.verdict


def test_earlier_runs_on_this_machine_correct_the_times(folder: Path) -> None:
    ledger = Ledger(project(folder).store)
    before = planned(folder, ledger=ledger)

    def file(machine: str, factor: float) -> None:
        rows = [
            {"stage": s.name, "predicted": s.raw, "measured": (s.raw or 0) * factor, "raw": s.raw, "ratio": factor, "cached": False}
            for s in before.stages
        ]
        ledger.end_run(ledger.start_run("run"), "done", {"plan": {"stages": rows, "machine": machine}})

    file("another machine", 50)
    assert planned(folder, ledger=ledger).seconds == pytest.approx(before.seconds)
    file(times.machine(), 2)
    after = planned(folder, ledger=ledger)
    assert after.seconds == pytest.approx(2 * (before.seconds or 0))
    assert "x 2.00" in "\n".join(after.lines())
    timed = {s.name: (s.seconds or 0) / (s.raw or 1) for s in planned(folder, "train.budget=30 s", ledger=ledger).stages}
    assert timed == pytest.approx({"prepare": 2, "train": 1, "evaluate": 2, "compress": 2})  # a wall-time training ends on time


def test_compare_leaves_out_what_was_cached(folder: Path) -> None:
    plan = planned(folder).as_dict()
    predicted = {stage["stage"]: stage["seconds"] for stage in plan["stages"]}
    found = compare(plan, {"train": predicted["train"] * 1.2, "evaluate": predicted["evaluate"]}, 2 * plan["peak_memory"])
    rows: dict[str, dict[str, Any]] = {row["stage"]: row for row in found["stages"]}
    assert rows["train"]["ratio"] == pytest.approx(1.2, rel=0.01)
    assert rows["prepare"]["cached"]
    assert found["total"]["predicted"] == pytest.approx(predicted["train"] + predicted["evaluate"], rel=0.01)
    assert found["peak_memory"]["ratio"] is None
    whole = compare(plan, predicted, 2 * plan["peak_memory"])
    assert (whole["total"]["ratio"], whole["peak_memory"]["ratio"]) == (1.0, 2.0)
    assert "cached" in "\n".join(comparison_lines(found))
    assert "2.00" in "\n".join(comparison_lines(whole))
    json.dumps(found)


def test_data_is_counted_without_the_excluded_and_the_too_long(folder: Path) -> None:
    made = project(folder)
    data = sources.measure_data(made, Store(made.store))
    assert (data.files, data.bytes) == (2, 2 * 25 * 800)
    assert data.tokens == data.train + data.validation + data.test
    assert data.tokens == pytest.approx(data.text / sources.bytes_per_token(300), abs=1)


@pytest.mark.parametrize(("tokenizer", "rate"), [("characters: 67", 1.0), ("words: 500", 4.5), ("bpe: 260", 1.0)])
def test_every_vocabulary_gives_times_above_zero(folder: Path, tokenizer: str, rate: float) -> None:
    made = project(folder, f"model.inputs.text.tokenizer={{{tokenizer}}}")
    data = sources.measure_data(made, Store(made.store))
    assert data.bytes_per_token == pytest.approx(rate, abs=0.1)
    assert data.tokens == pytest.approx(data.text / data.bytes_per_token, abs=1)
    calibration_ = calibration.Calibration(1e10, 0.01, 1e-5, 1e-3, "", "float32", 1, "2026-01-01T00:00:00+00:00", 1.0, 0.0)
    work = times.count_work(made.resolved.language, 4, made.resolved.budget, data.train)
    assert work is not None
    stages = times.stage_times(made, data, calibration_, work)
    assert all(seconds > 0 for seconds, _ in stages.values())


def test_parts_and_spans_of_sources_are_counted(folder: Path) -> None:
    whole = 25 * 800
    given = [
        {"files": "text/a.txt", "licence": "MIT", "part": "train", "span": ["0%", "80%"], "cut": "1 KB"},
        {"files": "text/a.txt", "licence": "MIT", "part": "test", "span": ["80%", "100%"], "cut": "1 KB"},
    ]
    made = project(folder, f"data.sources={json.dumps(given)}", "data.split.validation=10%")
    data = sources.measure_data(made, Store(made.store))
    assert data.bytes == whole
    tokens = whole * sources.KEPT_SHARE / data.bytes_per_token
    assert (data.train, data.validation, data.test) == pytest.approx((0.72 * tokens, 0.08 * tokens, 0.2 * tokens), abs=2)


def test_missing_data_is_an_error(folder: Path) -> None:
    for file in (folder / "text").rglob("*.txt"):
        file.unlink()
    with pytest.raises(SourceError, match="matches no file"):
        planned(folder)


def test_an_earlier_dataset_says_what_becomes_of_the_data(folder: Path) -> None:
    made = project(folder)
    store = Store(made.store)
    corpus, dataset = "corpus-0123456789abcdef", "dataset-0123456789abcdef"
    with store.create(corpus, parents=[], config={}, version=1, seed=0) as draft:
        account = {"in": 6, "kept": 2, "set_aside": {"drafts": 1, "too long": 1, "exact duplicate": 2}}
        draft.counts |= {"account": account, "bytes": 1, "sources": [{"pattern": "text/**/*.txt", "files": 2, "bytes": 1}]}
    with store.create(dataset, parents=[corpus], config={}, version=1, seed=0) as draft:
        parts = {"train": {"tokens": 80}, "validation": {"tokens": 5}, "test": {"tokens": 15}}
        draft.counts |= {"parts": parts, "vocabulary": 300, "bytes_per_token": 2.0}
    data = sources.measure_data(made, store)
    assert data.text == 20_000  # half of what is read was kept
    assert (data.train, data.validation, data.test) == (8000, 500, 1500)
    assert dataset in data.source


@pytest.mark.parametrize(("vocabulary", "low", "high"), [(260, 1.0, 1.2), (4096, 3.4, 3.6), (6000, 3.5, 3.9), (65_536, 4.6, 4.6)])
def test_bytes_per_token_grow_with_the_vocabulary(vocabulary: int, low: float, high: float) -> None:
    assert low <= sources.bytes_per_token(vocabulary) <= high


def test_a_step_timed_in_part_is_scaled_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose times are proportional to FLOPs and parameters, the parts give the whole."""

    def proportional(model: Any, rows: int, *_: object) -> tuple[float, float]:
        return rows * model.shape.context * model.shape.train_flops * 1e-12, model.shape.parameters * 1e-9

    monkeypatch.setattr(calibration, "_step_seconds", proportional)
    given = ("model.trunk.transformer.depth=6", "train.batch=16", "train.accumulate=2")
    made = project(folder, *given)
    shape = made.resolved.shape
    expected = 16 * 32 * shape.train_flops * 1e-12 + shape.parameters * 1e-9
    for seconds in (100.0, 1e-3, 1e-5, 1e-7):
        monkeypatch.setattr(calibration, "_PART_SECONDS", seconds)
        (made.store / "calibration.json").unlink(missing_ok=True)
        found = planned(folder, *given).calibration
        assert found
        assert found.step_seconds == pytest.approx(expected, rel=1e-6)
        assert bool(found.timed) == (seconds < 100)


def test_a_group_may_name_a_layer_that_is_not_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_PART_SECONDS", 1e-7)
    found = planned(folder, "model.trunk.transformer.depth=6", "train.groups={'*layers.5*': {rate: 0.5}}").calibration
    assert found
    assert "1 of 6 layers" in found.timed


def test_counting_needs_no_torch() -> None:
    code = "import sys, treadle.plan.counting, treadle.plan.sources, treadle.plan.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
