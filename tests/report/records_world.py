"""A store and ledger of a project of records: one run, users' corrections, one round of improvement; made up, well formed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_world import World, history, make

from treadle.core.project import load_project
from treadle.data.account import Account
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

YAML = """
name: rain
data: {sources: [{table: weather.csv, licence: CC0-1.0}]}
model:
  inputs: {pressure: number, sky: category}
  trunk: {mlp: {width: 16, depth: 1}}
  heads: {rain: binary, millimetres: number}
evaluate: {gate: {rain.accuracy: ">= 60%"}}
"""
NOTE = "sky says the answer by itself: 'black' is always yes"


def _figure(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def _card(world: World, model: str, dataset: str, accuracy: float, *, baselines: bool) -> dict[str, Any]:
    against = {"figure": "accuracy", "value": 0.41, "low": 0.33, "high": 0.5, "verdict": "better"}
    same = {"accuracy": _figure(0.51), "auc": _figure(0.5, 0)}
    numbers = {"rmse": _figure(1.5261, 0.3), "mae": _figure(0.87), "mse": _figure(2.33), "r2": _figure(float("nan"))}
    return {
        "kind": "records", "measure": "loss", "model": world.ids[model], "dataset": world.ids[dataset], "part": "test",
        "records": 91,
        "heads": {
            "millimetres": {
                "kind": "number", "metrics": {"loss": _figure(0.27), **numbers}, "unanswered": 3, "unseen": 2,
                "baselines": {"always the same": {"rmse": _figure(2.9007)}} if baselines else {},
            },
            "rain": {
                "kind": "binary", "metrics": {"loss": _figure(0.1), "accuracy": _figure(accuracy), "auc": _figure(0.97)},
                "baselines": {"always the same": {**same, "against": against}} if baselines else {}, "unanswered": 0,
            },
        },
        "gate": [{"metric": "rain.accuracy", "bound": ">= 0.6", **_figure(accuracy), "passed": True}] if baselines else [],
    }


def _model(records: int) -> dict[str, Any]:
    return {
        "unit": "records", "steps": records // 16, "tokens": records, "seconds": records / 100, "loss": 0.25,
        "validation_loss": 0.38, "parameters": 3626, "tokens_per_second": 446.6, "flops_share": 0.0005, "matrix_peak": 1.6e10,
        "peak_memory": 440_000_000, "budget": "12 epochs", "resumed_at": 0, "shape": None, "stopped_early": True,
        "derived": [{"key": "batch", "value": "16", "reason": "a good start for mlp"}],
        "runtime": {"device": "cpu", "precision": "float32", "threads": 1, "reason": "given"},
    }


def _package() -> dict[str, Any]:
    return {
        "quantize": "none", "drift": 0.0, "max_drift": 0.01, "measure": "loss",
        "original": {"bytes": 15_232, "records_per_second": 2245.0, "loss": 0.267},
        "package": {"bytes": 15_232, "records_per_second": 2028.8, "loss": 0.267},
    }


def records_world(folder: Path) -> World:
    """Version 2, improved from 20 corrections of version 1, is live."""
    (folder / "treadle.yaml").write_text(YAML)
    project = load_project(folder)
    world = World(project, Store(project.store), Ledger(project.store))
    source = {"pattern": "weather.csv", "licence": "CC0-1.0", "files": 400, "bytes": 17_501}
    counts = {"account": Account(400, 400).as_dict(), "bytes": 17_501, "redacted": {}, "sources": [source]}
    make(world, "corpus", "corpus", [], counts)
    parts = {"train": {"records": 258}, "validation": {"records": 51}, "test": {"records": 91}}
    make(world, "dataset", "dataset", [world.ids["corpus"]], {"kind": "records", "parts": parts, "notes": [NOTE]})
    _version(world, "", [world.ids["dataset"]], 3104, 0.95)
    for number in range(20):
        world.ledger.record_answer(
            id=f"pred-{number}", version=1, package=world.ids["package"], stored=True, prompt=json.dumps({"sky": "green"}),
            text=json.dumps({"rain": "no"}), settings={"kind": "prediction"}, prompt_tokens=0, answer_tokens=0, seconds=0.1,
            finish_reason="stop",
        )
        world.ledger.record_feedback(f"pred-{number}", "down", None)
        world.ledger.record_feedback(f"pred-{number}", None, json.dumps({"rain": "yes"}) if number else None)
    account = Account(39, 19)
    account.set_aside["superseded"] = 20
    source = {"pattern": "users' feedback", "licence": "given with consent", "files": 19, "bytes": 700}
    counts = {"account": account.as_dict(), "bytes": 700, "redacted": {}, "sources": [source]}
    make(world, "answers", "corpus", [], counts)
    parts = {"train": {"records": 14}, "validation": {"records": 0}, "test": {"records": 5}}
    make(world, "feedback", "dataset", [world.ids["answers"]], {"kind": "records", "parts": parts, "notes": []})
    _version(world, "2", [world.ids["model"], world.ids["dataset"], world.ids["feedback"]], 1920, 0.94)
    for name in ("model", "model2"):
        card = _card(world, name, "feedback", 0.5 if name == "model" else 0.9, baselines=False)
        make(world, f"fresh-{name}", "scorecard", [world.ids[name], world.ids["feedback"]], card)
    return world


def _version(world: World, mark: str, parents: list[str], records: int, accuracy: float) -> None:
    model = make(world, f"model{mark}", "model", parents, _model(records), lambda folder: history(folder, 60))
    card = _card(world, f"model{mark}", "dataset", accuracy, baselines=True)
    scorecard = make(world, f"scorecard{mark}", "scorecard", [model, world.ids["dataset"]], card)
    package = make(world, f"package{mark}", "package", [model, scorecard], _package())
    world.ledger.promote(package, f"held-out feedback: loss 5.8 to 0.02{mark}")
