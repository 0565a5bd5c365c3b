"""Rates, batches and parts that are measured or follow from the memory: chosen once, told with reasons, then plain numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import treadle.settle
from tiny import write_project
from tiny_records import write_records_project
from treadle.core import machine
from treadle.core.project import Project, load_project
from treadle.core.runtime import Runtime
from treadle.pipeline import Workshop, build, plan
from treadle.plan import calibrate, pace, parts
from treadle.plan.estimate import Plan
from treadle.report.page import write_report
from treadle.store.artifacts import Artifact
from treadle.store.kept import SETTLED
from treadle.train import range_test, rounds
from treadle.train.noise import NoiseScale
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

RATE = "train.learning_rate=auto"
BATCH = "train.batch=auto"


def reasons(project: Project) -> dict[str, str]:
    return {row.key: row.reason for row in project.resolved.reasons}


def trained(workshop: Workshop) -> Artifact:
    dataset = workshop.prepared()[1]
    project = workshop.settle()
    return train_model(project, workshop.store, dataset, first_round(project, dataset))


def settled(folder: Path, *overrides: str) -> Workshop:
    workshop = Workshop.open(load_project(folder, overrides))
    workshop.settle()
    return workshop


@pytest.fixture
def records(tmp_path: Path) -> Path:
    write_records_project(tmp_path)
    return tmp_path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def test_a_measured_rate_is_kept_and_trains_as_if_it_were_given(records: Path, monkeypatch: pytest.MonkeyPatch):
    workshop = settled(records, RATE)
    rate = workshop.project.resolved.learning_rate
    assert rate == workshop.project.spec.train.learning_rate
    assert rate != 0.001  # which the trunk would give
    assert "range test" in reasons(workshop.project)["learning_rate"]
    model = trained(workshop)
    assert model.config["learning_rate"] == model.config["train"]["learning_rate"] == rate
    (row,) = [row for row in model.counts["derived"] if row["key"] == "learning_rate"]
    assert len(row["curve"]) > 20
    monkeypatch.setattr(range_test, "range_test", None)  # a second test would fail
    assert settled(records, RATE).project.resolved.learning_rate == rate
    assert trained(settled(records, f"train.learning_rate={rate!r}")).id == model.id


@pytest.mark.parametrize(
    "change", ["train.batch=8", "train.optimizer=lion", "seed=1", "model.trunk.mlp.width=32", "train.clip=0.1"]
)
def test_what_the_rate_follows_from_measures_it_anew(records: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    settled(records, RATE)
    tests = []
    real = range_test.range_test
    monkeypatch.setattr(range_test, "range_test", lambda *given: tests.append(1) or real(*given))
    settled(records, RATE, "train.budget=3 epochs", "train.schedule=cosine")
    assert not tests
    settled(records, RATE, change)
    assert tests


def test_without_auto_the_rule_stays_and_nothing_is_measured(records: Path):
    text = (records / "treadle.yaml").read_text().replace("learning_rate: 0.01, ", "")
    (records / "treadle.yaml").write_text(text)
    workshop = settled(records)
    assert workshop.project.resolved.learning_rate == 0.001
    kept = json.loads((workshop.store.root / SETTLED).read_text())
    assert not any("rate" in found or "batch" in found for found in kept.values())


def test_a_language_model_too_and_the_plan_says_so(text: Path):
    workshop = Workshop.open(load_project(text, [RATE]))
    made = plan(workshop)
    assert isinstance(made, Plan)
    assert any("learning_rate" in line and "range test" in line for line in made.lines())
    assert 1e-4 < workshop.project.resolved.learning_rate < 0.5
    again = Workshop.open(load_project(text, [RATE]))
    again.settle()
    assert again.project.resolved == workshop.project.resolved


def paced(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Times as on a machine of one's choice; gives the sizes that are asked for."""
    asked: list[int] = []

    def found(model: object, objective: object, batch_at: object, settings: object, batch: int, runtime: object) -> float:
        asked.append(batch)
        return seconds[batch]

    monkeypatch.setattr(pace, "seconds_per_example", found)
    return asked


SECONDS = {32: 1.0, 64: 0.5, 128: 0.47, 256: 0.46, 512: 0.40}


@pytest.mark.parametrize(
    ("steps", "tried", "batch"), [(2, [32, 64, 128], 64), (20, [32], 32), (0.2, [32, 64, 128, 256, 512], 512)], ids=str
)
def test_the_batch_is_the_smallest_that_is_nearly_as_fast(
    records: Path, monkeypatch: pytest.MonkeyPatch, steps: float, tried: list[int], batch: int
):
    """The usual batch is 128, and a pass over some 270 records has so many steps at least."""
    asked = paced(monkeypatch, SECONDS)
    monkeypatch.setattr(treadle.settle, "_PER_PASS", steps)
    project = settled(records, BATCH).project
    assert asked == tried
    assert project.resolved.batch == project.spec.train.batch == batch
    (row,) = [row for row in project.resolved.reasons if row.key == "batch"]
    assert row.curve == tuple((size, SECONDS[size]) for size in tried)
    asked.clear()
    assert settled(records, BATCH).project.resolved.batch == batch
    assert not asked


def test_a_rate_by_rule_follows_the_chosen_batch_and_a_given_one_does_not(records: Path, monkeypatch: pytest.MonkeyPatch):
    paced(monkeypatch, SECONDS)
    assert settled(records, BATCH).project.resolved.learning_rate == 0.01
    text = (records / "treadle.yaml").read_text().replace("learning_rate: 0.01, ", "")
    (records / "treadle.yaml").write_text(text)
    project = settled(records, BATCH).project
    assert project.resolved.batch == 32
    assert project.resolved.learning_rate == pytest.approx(0.001 * (32 / 128) ** 0.5)
    assert "Malladi" in reasons(project)["learning_rate"]


def test_a_known_noise_scale_bounds_the_batch(records: Path, monkeypatch: pytest.MonkeyPatch):
    paced(monkeypatch, SECONDS)
    monkeypatch.setattr(treadle.settle, "_PER_PASS", 1)
    monkeypatch.setattr(NoiseScale, "value", 70.0)
    trained(settled(records))
    project = settled(records, BATCH, "train.learning_rate=0.02").project
    assert project.resolved.batch == 64
    assert "noise scale of model-" in reasons(project)["batch"]


def test_only_batches_that_fit_into_memory_are_tried(records: Path, monkeypatch: pytest.MonkeyPatch):
    asked = paced(monkeypatch, SECONDS)
    monkeypatch.setattr(treadle.settle, "_PER_PASS", 0.2)
    workshop = Workshop.open(load_project(records))
    needs = treadle.settle._needs(workshop.project, lambda: workshop.prepared()[1])(False)
    settled(records, BATCH, f"plan.memory={needs(64)}")
    assert asked == [32, 64]
    asked.clear()
    project = settled(records, BATCH, "seed=1", f"plan.memory={needs(1) - 1000}").project
    assert (asked, project.resolved.batch) == ([], 128)
    assert "may not fit" in reasons(project)["batch"]


def test_a_real_measurement_gives_a_batch_that_runs(text: Path):
    workshop = settled(text, BATCH, RATE, "train.budget=3 steps")
    train = workshop.project.spec.train
    assert train.batch in {4, 8, 16, 32, 64, 128, 256}
    assert isinstance(train.learning_rate, float)
    model = trained(workshop)
    assert model.config["batch"] == train.batch
    assert model.counts["tokens"] == 3 * int(train.batch) * 32


@pytest.mark.parametrize("kind", ["text", "records"])
def test_parts_follow_from_the_memory_and_are_kept(kind: str, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(kind)
    workshop = Workshop.open(load_project(folder, ["train.batch=64"]))
    needs = treadle.settle._needs(workshop.project, lambda: workshop.prepared()[1])(False)
    short, long = f"plan.memory={(needs(16) + needs(32)) // 2}", f"plan.memory={2 * needs(64)}"
    assert settled(folder, "train.batch=64", long).project.spec.train.accumulate is None
    project = settled(folder, "train.batch=64", short).project
    assert project.spec.train.accumulate == 4
    assert "64 at once needs" in reasons(project)["accumulate"]
    assert settled(folder, "train.batch=64", long).project.spec.train.accumulate == 4  # an interrupted run stays what it was
    assert settled(folder, "train.batch=64", "train.accumulate=1", short).project.spec.train.accumulate == 1
    smaller = f"plan.memory={needs(8)}"
    assert settled(folder, "train.batch=64", smaller).project.spec.train.accumulate == 8
    none = settled(folder, "train.batch=64", "seed=3", f"plan.memory={needs(1) - 1000}").project
    assert none.spec.train.accumulate is None


def test_a_large_step_is_computed_in_parts_though_it_fits(text: Path, monkeypatch: pytest.MonkeyPatch):
    long = ("train.batch=64", "plan.memory=100 GB")
    resolved = settled(text, *long).project.resolved
    monkeypatch.setattr(parts, "_ENOUGH", resolved.language.train_flops * resolved.tokens_per_step / 8)
    project = settled(text, *long, "train.threads=2").project
    assert project.spec.train.accumulate == 4
    assert "parts of 16 need" in reasons(project)["accumulate"]
    assert "as long" in reasons(project)["accumulate"]
    assert settled(text, *long, "train.threads=2", "train.accumulate=1").project.spec.train.accumulate == 1


def test_what_fits_in_parts_is_planned_and_trained_in_them(text: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibrate, "_SECONDS", 0.0)
    given = ("train.batch=512", "model.trunk.transformer.width=64", "plan.memory=450 MB", "train.budget=2 steps")
    workshop = Workshop.open(load_project(text, given))
    made = plan(workshop)
    assert made is not None
    assert made.fits
    parts = workshop.project.spec.train.parts
    assert parts > 1
    assert any(line.strip().startswith(f"accumulate {parts}: ") for line in made.lines())
    model = trained(workshop)
    assert model.config["train"]["accumulate"] == parts
    assert model.counts["noise_scale"] is None  # of two steps


def test_parts_of_one_are_the_model_that_it_was(records: Path):
    assert trained(settled(records)).id == trained(settled(records, "train.accumulate=1")).id


def test_the_report_shows_curves_and_ways_back(records: Path):
    workshop = Workshop.open(load_project(records, [RATE]))
    build(workshop, None)
    page = write_report(workshop.project, workshop.store, workshop.ledger).read_text()
    assert "range test of the learning rate" in page
    assert "left its course" not in page


def test_a_run_that_is_finished_neither_builds_nor_runs_its_network(records: Path, monkeypatch: pytest.MonkeyPatch):
    def finished(*more: str) -> tuple[str, object]:
        workshop = Workshop.open(load_project(records, more))
        made = plan(workshop, only_new=True)
        return trained(workshop).id, made

    first, made = finished()
    assert made is not None
    monkeypatch.setattr(rounds, "make_network", None)  # building one more would fail
    assert finished() == (first, None)
    with pytest.raises(TypeError):
        finished("train.learning_rate=0.02")
    with pytest.raises(TypeError):  # whose memory and FLOPs were not counted
        Workshop.open(load_project(records, ["model.trunk.mlp.width=24"])).settle()


@pytest.mark.parametrize("change", ["model.trunk.mlp.width=64", "train.batch=4", "train.optimizer=sgd", "data.split.test=20%"])
def test_what_memory_follows_from_counts_it_anew(records: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    settled(records)
    counts = []
    real = treadle.settle.network_needs
    monkeypatch.setattr(treadle.settle, "network_needs", lambda *given: counts.append(1) or real(*given))
    settled(records, "train.learning_rate=0.02", "train.budget=3 epochs")
    assert not counts
    settled(records, change)
    assert counts == [1]


DEEP = ("model.trunk.transformer.depth=6", "train.batch=4", "train.budget=4 steps")


def weights(model: Artifact) -> bytes:
    return (model.path / "model.safetensors").read_bytes()


def test_layers_are_computed_again_where_a_single_example_does_not_fit(
    text: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
):
    needs = treadle.settle._needs(load_project(text, DEEP), None)
    short = f"plan.memory={(needs(True)(1) + needs(False)(1)) // 2}"
    workshop = settled(text, *DEEP, short)
    train = workshop.project.spec.train
    assert (train.accumulate, train.recompute) == (4, True)
    assert "computed again" in reasons(workshop.project)["recompute"]
    assert "train.recompute: true, 1 example at once would need" in capsys.readouterr().err
    made = trained(workshop)
    other = tmp_path_factory.mktemp("other")
    write_project(other)
    plenty = trained(settled(other, *DEEP, "train.accumulate=4"))
    assert plenty.id == made.id
    assert weights(plenty) == weights(made)
    assert settled(text, *DEEP).project.spec.train.recompute is None
    refused = settled(text, *DEEP, "seed=1", "train.recompute=false", short).project.spec.train
    assert (refused.accumulate, refused.recompute) == (None, False)
    given = settled(text, *DEEP, "train.accumulate=1", f"plan.memory={(needs(True)(4) + needs(False)(4)) // 2}").project.spec.train
    assert (given.accumulate, given.recompute) == (1, True)


def test_parts_come_before_computing_again(text: Path):
    needs = treadle.settle._needs(load_project(text, DEEP), None)
    train = settled(text, *DEEP, f"plan.memory={needs(False)(2)}").project.spec.train
    assert (train.accumulate, train.recompute) == (2, None)


def test_a_plan_counts_layers_that_are_computed_again(text: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibrate, "_SECONDS", 0.0)
    made = [plan(Workshop.open(load_project(text, [*DEEP, f"train.recompute={again}"]))) for again in ("true", "false")]
    less, more = (dict(found.as_dict()["stages"][1]["memory_parts"]) for found in made)
    assert less.pop("activations") < more.pop("activations")
    assert less == more


def threaded(monkeypatch: pytest.MonkeyPatch, folder: Path, seconds: dict[int, list[float]]) -> list[int]:
    """Times as on two cores of one's choice, for every step and run; gives the counts of threads that are asked for."""
    asked: list[int] = []

    def found(model: object, objective: object, batch_at: object, settings: object, batch: int, runtime: Runtime) -> float:
        asked.append(runtime.threads)
        return seconds[runtime.threads][asked.count(runtime.threads) - 1]

    monkeypatch.setattr(pace, "seconds_per_example", found)
    monkeypatch.setattr(machine, "threads", lambda: 2)
    monkeypatch.setattr(treadle.settle, "_SHORT", 0)
    monkeypatch.setattr(treadle.settle, "_WORTH", 0)
    (folder / "treadle.yaml").write_text((folder / "treadle.yaml").read_text().replace("threads: 1, ", ""))
    return asked


@pytest.mark.parametrize(
    ("one", "two", "threads"),
    [([1.0, 1.0], [0.8, 0.8], 2), ([1.0, 1.0], [0.9, 0.9], 1), ([1.0, 1.0], [0.7, 5.0], 1), ([1.0, 9.0], [0.7, 0.7], 2)], ids=str,
)
def test_threads_are_as_many_as_were_measured_to_be_clearly_faster(
    records: Path, monkeypatch: pytest.MonkeyPatch, one: list[float], two: list[float], threads: int
):
    asked = threaded(monkeypatch, records, {1: one, 2: two})
    workshop = settled(records, "train.budget=3 epochs")
    assert asked == [1, 2, 2, 1]
    assert "by 1, " in reasons(workshop.project)["threads"]
    model = trained(workshop)
    assert model.config["threads"] == model.counts["runtime"]["threads"] == threads
    assert "as measured" in model.counts["runtime"]["reason"]
    monkeypatch.setattr(pace, "seconds_per_example", None)  # measuring again would fail
    assert trained(settled(records, "train.budget=3 epochs")).id == model.id
    assert trained(settled(records, "train.budget=3 epochs", f"train.threads={threads}")).config["threads"] == threads


@pytest.mark.parametrize(("name", "value"), [("_SHORT", 1e12), ("_LONG", 1.0), ("_WORTH", 1e18)])
def test_threads_are_measured_of_steps_in_between_alone(
    records: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
):
    asked = threaded(monkeypatch, records, {1: [1.0] * 4, 2: [0.5] * 4})
    settled(records, "train.threads=1")
    assert not asked
    monkeypatch.setattr(treadle.settle, name, value)
    assert settled(records).project.resolved.threads is None
    assert not asked
