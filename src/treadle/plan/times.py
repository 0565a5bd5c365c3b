"""How long each stage takes, from what was counted and measured, corrected by what earlier runs took."""

from __future__ import annotations

import math
import statistics

from treadle.core.machine import cores, processor
from treadle.core.project import Project
from treadle.plan.calibrate import Calibration
from treadle.plan.counting import Work, count_work
from treadle.plan.sources import DataSize
from treadle.spec.units import Budget, format_size
from treadle.store.ledger import Ledger

_LEARN_FROM = 5
"""Newest earlier runs whose times correct the prediction."""

# Seconds where nothing better is known; measured on a 2-core x86-64 of 2.5 GHz, and corrected by the project's own runs.
_PREPARE_PER_BYTE = 1 / 600_000
_LZMA_PER_BYTE = 1 / 400_000
_NGRAM_PER_TRAINED = 0.27e-6
_NGRAM_PER_SCORED = 3.5e-6
_STAGE_START = 1.0  # reading, hashing and writing artifacts
_RATE_TOKENS = 2 * 6 * 64  # generated to compare the package's speed with the model's
_DISK_RATE = 200e6  # bytes/s of a checkpoint, its hash and its flush


def machine() -> str:
    """What a time holds for."""
    return f"{processor()}, {cores()} core{'s' * (cores() > 1)}"


def work_in_time(project: Project, data: DataSize, calibration: Calibration) -> Work:
    """The steps of a wall-time budget: what is left of it after the validations inside it."""
    spec, resolved = project.spec, project.resolved
    inside = (_validations(project) - 1) * _validation_seconds(project, data, calibration)
    left = Budget(max(resolved.budget.amount - inside, calibration.step_seconds), "seconds")
    work = count_work(resolved.language, resolved.batch, left, data.train, calibration.step_seconds)
    assert work is not None, spec.name
    return work


def _validations(project: Project) -> int:
    every = project.spec.train.validate_every
    return max(1, math.ceil(1 / every)) if every else 1


def _validation_seconds(project: Project, data: DataSize, calibration: Calibration) -> float:
    """Of the validation part, and of as much of the train part."""
    watched = min(project.spec.train.validate_tokens, max(data.validation, 1))
    return (watched + min(watched, max(data.train, 1))) * calibration.forward_seconds


def stage_times(project: Project, data: DataSize, calibration: Calibration, work: Work) -> dict[str, tuple[float, str]]:
    """Seconds of each stage, and what they are made of."""
    spec, shape = project.spec, project.resolved.language
    validation = _validation_seconds(project, data, calibration)
    checkpoint = 12 * shape.parameters / _DISK_RATE
    if project.resolved.budget.unit == "seconds":
        train = project.resolved.budget.amount + validation + checkpoint + calibration.step_seconds / 2
        made_of = "the budget, its last validation and checkpoint"
    else:
        train = work.steps * calibration.step_seconds + _validations(project) * validation
        train += checkpoint  # the others are written while it goes on
        made_of = f"{work.steps} steps of {calibration.step_seconds:.3g} s, {_validations(project)} validations, a checkpoint"
    scored = min(data.test, spec.evaluate.max_tokens)
    forward = scored * calibration.forward_seconds
    baselines = data.train * _NGRAM_PER_TRAINED + scored * (_NGRAM_PER_SCORED + data.bytes_per_token * _LZMA_PER_BYTE)
    sampled = len(spec.evaluate.sample.prompts) * spec.evaluate.sample.tokens * calibration.generate_seconds
    compress = forward + _RATE_TOKENS * calibration.generate_seconds
    return {
        "prepare": (_STAGE_START + data.bytes * _PREPARE_PER_BYTE, f"{format_size(data.bytes)} of sources"),
        "train": (_STAGE_START + 1.0 + train, made_of),
        "evaluate": (_STAGE_START + forward + baselines + sampled, f"{scored} tokens scored, baselines, samples"),
        "compress": (_STAGE_START + compress, f"{scored} tokens scored again, speed measured"),
    }


def corrections(ledger: Ledger, budget: Budget) -> dict[str, float]:
    """Stage -> median of measured / uncorrected over the newest runs on this machine. A training in wall time needs none."""
    seen: dict[str, list[float]] = {}
    for run in reversed(ledger.all_runs()):
        plan = (run["detail"] or {}).get("plan") or {}
        if plan.get("machine") != machine():
            continue
        for row in plan["stages"]:
            if not row["cached"] and row["raw"]:
                seen.setdefault(row["stage"], []).append(row["measured"] / row["raw"])
    if budget.unit == "seconds":
        seen.pop("train", None)
    return {stage: statistics.median(ratios[:_LEARN_FROM]) for stage, ratios in seen.items()}
