"""Over- and under-fitting, told from curves that are made up, and from real runs."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import write_project
from tiny_records import write_records_project
from treadle.core.project import Project, load_project
from treadle.core.runtime import choose_runtime
from treadle.data.loader import permutation
from treadle.data.table import Table
from treadle.model.network import load_network
from treadle.pipeline import Outcome, Workshop, build
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.report.fitting import Fitting, judge_fitting, noise
from treadle.report.gather import read_history
from treadle.report.page import write_report
from treadle.show import outcome as shown
from treadle.store.artifacts import Artifact, Store
from treadle.train.loop import mean_loss
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

COUNTS = {"naive_loss": 1.0, "budget": "3 epochs"}
DOWN = [0.9, 0.7, 0.55, 0.45, 0.4, 0.37, 0.35, 0.34, 0.337, 0.335]


def judged(folder: Path, train: Sequence[float], validation: Sequence[float], *settings: str, **counts: object) -> Fitting:
    history = [
        {"step": 10 * n, "tokens": n, "train_loss_eval": t, "validation_loss": v}
        for n, (t, v) in enumerate(zip(train, validation, strict=True), 1)
    ]
    return judge_fitting([{"step": 1, "tokens": 1, "loss": 2.0}, *history], COUNTS | counts, write_project(folder, *settings).spec)


def test_over_fitting_since_its_lowest_validation(tmp_path: Path):
    train = [0.9, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03]
    validation = [0.95, 0.7, 0.6, 0.58, 0.6, 0.64, 0.7, 0.77, 0.85, 0.95]
    found = judged(tmp_path, train, validation)
    assert (found.verdict, found.since) == ("over-fits", 40)
    assert "since step 40 the validation loss rose from 0.58 to 0.95" in found.words
    assert "from 0.3 to 0.03" in found.words
    for cure in ("train.patience", "model.trunk.transformer.dropout (is 0)", "train.weight_decay (is 0.1)", "text.augment"):
        assert cure in found.cure
    kept = judged(tmp_path, train, validation, best_validation_loss=0.58)
    assert kept.verdict == "fits"
    assert "The weights of step 40 are kept" in kept.words
    assert "dropout" not in judged(tmp_path, train, validation, "model.trunk.transformer.dropout=0.5").cure


def test_a_rise_within_the_noise_is_none(tmp_path: Path):
    shaken = [v + s for v, s in zip(DOWN, (0, 0, 0.02, -0.02, 0.02, -0.02, 0.0, -0.03, 0.02, 0.015), strict=True)]
    assert judged(tmp_path, DOWN, shaken).verdict == "fits"
    one_bad_end = [*DOWN[:-1], 0.5]
    assert judged(tmp_path, DOWN, one_bad_end).verdict == "fits"


def test_still_learning(tmp_path: Path):
    straight = [1 - 0.05 * n for n in range(10)]
    found = judged(tmp_path, straight, straight)
    assert found.verdict == "stopped while learning"
    assert found.cure == "raise train.budget (was 3 epochs)"
    assert judged(tmp_path, straight, straight, stopped_early=True).verdict == "fits"
    assert judged(tmp_path, DOWN, DOWN).verdict == "fits"


def test_under_fitting(tmp_path: Path):
    flat = [1.02, 1.0, 0.99, 0.985, 0.984, 0.983, 0.982, 0.982, 0.981, 0.981]
    found = judged(tmp_path, flat, flat, "model.trunk.transformer.dropout=0.5")
    assert found.verdict == "under-fits"
    assert "0.981 even on records that it learns from" in found.words
    assert "lower model.trunk.transformer.dropout (is 0.5)" in found.cure
    assert judged(tmp_path, flat, flat, naive_loss=2.0).verdict == "fits"
    assert judged(tmp_path, flat, flat, naive_loss=None).verdict == "fits"


def test_both_rising_is_no_over_fitting(tmp_path: Path):
    up = [0.9, 0.5, 0.4, 0.5, 0.6, 0.7, 0.9, 1.1, 1.4, 1.7]
    found = judged(tmp_path, up, up)
    assert found.verdict == "diverges"
    assert "learning_rate" in found.cure


def test_far_apart_and_too_few(tmp_path: Path):
    apart = judged(tmp_path, [v * 0.3 for v in DOWN], DOWN)
    assert apart.verdict == "fits"
    assert "far apart" in apart.words
    assert "far apart" not in judged(tmp_path, DOWN, DOWN).words
    assert judged(tmp_path, DOWN[:4], DOWN[:4]).verdict == "unknown"


def test_the_noise_of_a_curve():
    draw = np.random.default_rng(0)
    course = np.linspace(3, 1, 4000)
    assert noise(list(course)) == pytest.approx(0, abs=1e-9)
    assert noise(list(course + draw.normal(0, 0.05, 4000))) == pytest.approx(0.05, rel=0.1)


# -- real runs --------------------------------------------------------------------------------------------------------

CHANCE = """
name: chance
data: {sources: [{table: rows.csv, licence: CC0-1.0}], split: {test: 25%, validation: 35%}}
model:
  inputs: {a: number, b: number, c: number, d: number, e: number, f: number}
  trunk: {mlp: {width: 64, depth: 2}}
  heads: {answer: binary}
train: {budget: 60 epochs, batch: 16, learning_rate: 0.01, weight_decay: 0, threads: 1, precision: float32}
evaluate: {resamples: 100}
"""


def built(project: Project) -> tuple[Workshop, Outcome]:
    workshop = Workshop.open(project)
    return workshop, build(workshop, None)


def trained(project: Project) -> tuple[Artifact, Artifact]:
    """The model and its dataset."""
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    return train_model(project, store, dataset, first_round(project, dataset)), dataset


def page(workshop: Workshop) -> str:
    return write_report(workshop.project, workshop.store, workshop.ledger).read_text(encoding="utf-8")


def test_a_net_that_learns_few_records_by_heart_over_fits(tmp_path: Path):
    draw = random.Random(0)
    (tmp_path / "treadle.yaml").write_text(CHANCE)
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow([*"abcdef", "answer"])
        for _ in range(120):
            out.writerow([*(round(draw.gauss(0, 1), 3) for _ in range(6)), draw.choice(["yes", "no"])])
    workshop, outcome = built(load_project(tmp_path))
    assert outcome.fitting["verdict"] == "over-fits"
    said = shown(outcome.as_dict())
    assert any(line.startswith("the model over-fits: since step ") for line in said)
    assert any("train.patience: 3" in line for line in said)
    assert "Over-fits: since step" in page(workshop)
    patient = load_project(tmp_path, ["train.patience=3"])
    model, _ = trained(patient)
    assert not judge_fitting(read_history(Store(patient.store), model.manifest), model.counts, patient.spec).as_dict()["warns"]


def test_a_net_that_is_held_down_under_fits(tmp_path: Path):
    workshop, outcome = built(write_records_project(
        tmp_path, "train.l1=1.0", "train.budget=20 epochs", "model.heads={rain: binary}", "evaluate.gate={}"
    ))
    assert outcome.fitting["verdict"] == "under-fits"
    assert any("the model under-fits: the loss no longer falls" in line for line in shown(outcome.as_dict()))
    assert "train.l1 (is 1)" in outcome.fitting["cure"]
    assert "Under-fits: the loss" in page(workshop)


def test_the_curve_is_that_of_train_records_measured_like_the_others(tmp_path: Path):
    project = write_records_project(tmp_path, "model.trunk.mlp.dropout=0.3")
    model, dataset = trained(project)
    lines = [line for line in read_history(Store(project.store), model.manifest) if "validation_loss" in line]
    assert all("train_loss_eval" in line for line in lines)
    network = load_network(model.path)
    train, watched = (
        Table.open(dataset.path, part, ["pressure", "sky", "note"], ["rain", "millimetres"], shuffle=False)
        for part in ("train", "validation")
    )
    which = permutation(0, 0, train.records, 2)[: max(watched.records, 256)]
    with torch.inference_mode():
        losses = network.losses(network(train.at(which)), train.at(which))
    expected = sum(float(losses[name].nanmean()) for name in ("rain", "millimetres"))
    assert lines[-1]["train_loss_eval"] == pytest.approx(expected, rel=1e-4)
    runtime = choose_runtime("float32", 1)
    assert lines[-1]["validation_loss"] == pytest.approx(mean_loss(network, watched, 16, watched.records, runtime), rel=1e-5)


def test_of_text_as_many_tokens_of_the_train_part(tmp_path: Path):
    project = write_project(tmp_path)
    model, _ = trained(project)
    lines = [line for line in read_history(Store(project.store), model.manifest) if "validation_loss" in line]
    assert len(lines) == 10
    assert lines[-1]["train_loss_eval"] < lines[0]["train_loss_eval"] < 6.5
    assert model.counts["naive_loss"] == pytest.approx(5, abs=0.7)  # of 400 tokens
