"""A project's store and ledger after one run, some feedback and one round of improvement: small, made up, and well formed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.project import Project, load_project
from treadle.data.account import Account
from treadle.data.record import Record, content_id, write_records, write_set_aside
from treadle.data.shards import Document, write_shard
from treadle.store.artifacts import Store, write_json
from treadle.store.ledger import Ledger

YAML = """
name: pycode
data: {sources: [{files: "*.py", licence: PSF-2.0}]}
model:
  inputs: {text: {tokenizer: {bpe: 512}, context: 64}}
  trunk: {transformer: {depth: 2, width: 64}}
train: {budget: 20 steps, batch: 4}
evaluate: {gate: {bits_per_byte: "<= 2.5"}}
"""
HOSTILE = "<script>alert('sample')</script> & </style> \"quoted\""


@dataclass
class World:
    """Everything that the tests look at; ``ids`` maps short names to artifacts."""

    project: Project
    store: Store
    ledger: Ledger
    ids: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)


def make(world: World, name: str, kind: str, parents: list[str], counts: Mapping[str, Any], files: Any = None) -> str:
    id = world.store.identify(kind, parents, {"name": name}, 1)
    with world.store.create(id, parents=parents, config={"name": name}, version=1, seed=0) as draft:
        (draft.path / "content.txt").write_text(name)
        if files:
            files(draft.path)
        draft.counts.update(counts)
    world.ledger.record_artifact(world.store.open(id).manifest)
    world.ids[name] = id
    return id


def history(folder: Path, steps: int = 200) -> None:
    lines = []
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 60) + 2.2 + 0.08 * math.sin(step * 1.7)
        lines.append({
            "step": step, "tokens": step * 2048, "seconds": step * 0.9, "loss": loss,
            "learning_rate": 0.004 * min(1, step / 8, (steps + 1 - step) / steps * 1.05),
            "gradient_norm": 0.4 + 0.2 * math.cos(step), "tokens_per_second": 2300 + 40 * math.sin(step),
        })
        if step % 20 == 0:
            lines.append({"step": step, "tokens": step * 2048, "seconds": step * 0.9, "validation_loss": loss + 0.12})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def corpus_files(records: list[Record]) -> Any:
    def write(folder: Path) -> None:
        write_records(folder / "records.parquet", records, ["text"])
        write_set_aside(folder / "quarantine.parquet", [])

    return write


def dataset_files(folder: Path) -> None:
    for part in ("train", "validation", "test"):
        write_shard(folder, part, [Document("a", "a.py", [5, 6, 0], 12)])


def scorecard(world: World, model: str, dataset: str, value: float) -> dict[str, Any]:
    def interval(middle: float, spread: float) -> dict[str, float]:
        return {"value": middle, "low": middle - spread, "high": middle + spread}

    return {
        "model": world.ids[model], "dataset": world.ids[dataset], "part": "test", "documents": 33, "tokens": 112_801,
        "bytes": 413_600,
        "left_out": {"documents": 2, "tokens": 4000},
        "metrics": {
            "loss": interval(value * 2.55, 0.08), "perplexity": interval(math.exp(value * 2.55), 9),
            "bits_per_byte": interval(value, 0.05), "accuracy": interval(0.38, 0.012),
        },
        "baselines": {
            "unigram": {"bits_per_byte": interval(2.81, 0.05)}, "trigram": {"bits_per_byte": interval(1.93, 0.06)},
            "lzma": {"bits_per_byte": interval(2.05, 0.11)},
        },
        "gate": [{"metric": "bits_per_byte", "bound": "<= 2.5", **interval(value, 0.05), "passed": value < 2.45}],
        "samples": [{"prompt": "def ", "text": "main(self):\n    return self._value\n"}, {"prompt": "<b>", "text": HOSTILE}],
    }


def model_counts(steps: int) -> dict[str, Any]:
    return {
        "steps": steps, "tokens": steps * 2048, "seconds": steps * 0.9, "loss": 2.31, "validation_loss": 2.44,
        "parameters": 4_000_512, "tokens_per_second": 2275.0, "flops_share": 0.42, "matrix_peak": 8.1e10,
        "peak_memory": 812_000_000, "budget": "3 min 00 s",
        "derived": [
            {"key": "width", "value": "64", "reason": "given"},
            {"key": "heads", "value": "1", "reason": "one head per 64 features <&>"},
        ],
        "runtime": {"device": "cpu", "precision": "float32", "threads": 2, "reason": "cpu has no native bf16"},
        "shape": {"depth": 4, "width": 256, "vocabulary": 4096, "context": 256}, "resumed_at": 0,
    }


def package_counts(bits: float) -> dict[str, Any]:
    return {
        "quantize": "int8", "drift": 0.0012, "max_drift": 0.01,
        "original": {"bytes": 16_010_000, "tokens_per_second": 205.0, "bits_per_byte": bits},
        "package": {"bytes": 4_030_000, "tokens_per_second": 341.0, "bits_per_byte": bits * 1.0012},
    }


PLAN = {
    "stages": [
        {"stage": "prepare", "predicted": 22.0, "measured": 25.1, "ratio": 1.141, "raw": 22.0, "cached": False},
        {"stage": "train", "predicted": 184.0, "measured": 187.3, "ratio": 1.018, "raw": 184.0, "cached": False},
        {"stage": "evaluate", "predicted": 24.0, "measured": None, "ratio": None, "raw": 24.0, "cached": True},
        {"stage": "compress", "predicted": 20.0, "measured": 17.1, "ratio": 0.855, "raw": 20.0, "cached": False},
    ],
    "total": {"predicted": 226.0, "measured": 229.5, "ratio": 1.015},
    "peak_memory": {"predicted": 896_000_000, "measured": 941_000_000, "ratio": 1.05},
    "machine": "Test processor, 2 cores", "budget": "3 min 00 s", "energy_kwh": 0.0041, "money": 0.0074, "currency": "EUR",
}


def first_run(world: World, pattern: str = "{stdlib}/**/*.py") -> None:
    text = [Record(content_id({"text": name}), {"text": name}, f"stdlib/{name}", "PSF-2.0", name) for name in ("a.py", "b.py")]
    account = Account(13_353, 724)
    account.set_aside.update({"tests": 2898, "packages": 9656, "generated": 70, "exact duplicate": 2, "empty": 3})
    source = {"pattern": pattern, "licence": "PSF-2.0", "files": 724, "bytes": 10_623_722}
    counts = {"account": account.as_dict(), "bytes": 10_623_722, "redacted": {"EMAIL": 170}, "sources": [source]}
    make(world, "corpus", "corpus", [], counts, corpus_files(text))
    parts = {
        "train": {"documents": 680, "tokens": 2_707_681, "bytes": 9_970_316},
        "validation": {"documents": 11, "tokens": 61_598, "bytes": 239_806},
        "test": {"documents": 33, "tokens": 112_801, "bytes": 413_600},
    }
    dataset = {"parts": parts, "vocabulary": 4096, "bytes_per_token": 3.6861}
    make(world, "dataset", "dataset", [world.ids["corpus"]], dataset, dataset_files)
    make(world, "model", "model", [world.ids["dataset"]], model_counts(200), history)
    card = scorecard(world, "model", "dataset", 2.04)
    parents = [world.ids["model"], world.ids["dataset"]]
    make(world, "scorecard", "scorecard", parents, card, lambda folder: write_json(folder / "scorecard.json", card))
    make(world, "package", "package", [world.ids["model"], world.ids["scorecard"]], package_counts(2.04))
    run = world.ledger.start_run("run")
    world.ledger.end_run(run, "done", {"plan": PLAN})
    world.ledger.promote(world.ids["package"], "the first version that passed the gate")


def feedback_round(world: World) -> None:
    for number in range(8):
        id = f"cmpl-{number:08x}"
        world.ledger.record_answer(
            id=id, version=1, package=world.ids["package"], stored=True, prompt=f"def f{number}(", text="self):\n", prompt_tokens=4,
            settings={"temperature": 0.0, "max_tokens": 16}, answer_tokens=6, seconds=0.21, finish_reason="stop",
        )
        world.ledger.record_feedback(id, "up" if number % 2 else "down", None if number % 2 else "x):\n")
        world.answers.append(id)
    said = [Record(content_id({"text": id}), {"text": id}, f"answer {id}", "consent", id) for id in world.answers]
    source = {"pattern": "users' feedback", "licence": "consent", "files": 8, "bytes": 320}
    counts = {"account": Account(8, 8).as_dict(), "bytes": 320, "redacted": {}, "sources": [source]}
    make(world, "answers", "corpus", [], counts, corpus_files(said))
    parts = {
        "train": {"documents": 5, "tokens": 90, "bytes": 200}, "validation": {"documents": 0, "tokens": 0, "bytes": 0},
        "test": {"documents": 3, "tokens": 40, "bytes": 120},
    }
    counts = {"parts": parts, "vocabulary": 4096, "bytes_per_token": 2.5}
    make(world, "feedback", "dataset", [world.ids["answers"]], counts, dataset_files)
    parents = [world.ids["model"], world.ids["dataset"], world.ids["feedback"]]
    make(world, "model2", "model", parents, model_counts(60), lambda folder: history(folder, 60))
    card = scorecard(world, "model2", "dataset", 2.03)
    make(world, "scorecard2", "scorecard", [world.ids["model2"], world.ids["dataset"]], card)
    before = scorecard(world, "model", "feedback", 1.9) | {"baselines": {}}
    make(world, "scorecard4", "scorecard", [world.ids["model"], world.ids["feedback"]], before)
    fresh = scorecard(world, "model2", "feedback", 1.4) | {"baselines": {}}
    make(world, "scorecard3", "scorecard", [world.ids["model2"], world.ids["feedback"]], fresh)
    make(world, "package2", "package", [world.ids["model2"], world.ids["scorecard2"]], package_counts(2.03))
    world.ledger.promote(world.ids["package2"], "held-out feedback: bits per byte 1.9000 to 1.4000")


def empty_world(folder: Path) -> World:
    (folder / "treadle.yaml").write_text(YAML)
    project = load_project(folder)
    return World(project, Store(project.store), Ledger(project.store))
