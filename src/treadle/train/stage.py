"""dataset -> model: from fresh weights, or on from a version that is live, with its old data replayed."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from treadle.core.machine import peak_memory
from treadle.core.progress import say, task
from treadle.core.project import Project
from treadle.core.runtime import Runtime, choose_runtime, matrix_peak
from treadle.data.loader import Mixed, Windows
from treadle.data.rows import Documents
from treadle.data.shards import Shard
from treadle.model.hub import load_model, save_model
from treadle.model.model import LanguageModel, make_model
from treadle.spec.train import Train
from treadle.spec.units import Budget, format_count, significant
from treadle.store.artifacts import Artifact, Draft, Store
from treadle.train.hooks import ProgressHook, TensorBoardHook
from treadle.train.loop import Batches, Horizon, Loop, mean_loss
from treadle.train.objectives import OBJECTIVES

VERSION = 1
FEEDBACK_PASSES = 8
"""Times that each feedback answer is seen in a round of improvement whose budget is not given."""


@dataclass(frozen=True)
class Round:
    """What one training run is made of: a first training, or a round of improvement."""

    parents: tuple[str, ...]
    model: LanguageModel
    batches: Batches
    objective: str
    settings: Train
    budget: Budget
    learning_rate: float
    tokens_per_epoch: int


def first_round(project: Project, dataset: Artifact) -> Round:
    """Fresh weights on the dataset's train part."""
    spec, resolved = project.spec, project.resolved
    name, head = _names(project)
    trunk = spec.model.trunk.transformer
    assert trunk is not None
    model = make_model(resolved.shape, spec.seed, trunk.dropout, name, head)
    windows = Windows(Shard(dataset.path, "train"), resolved.shape.context, spec.seed, name, head)
    return Round(
        (dataset.id,), model, windows, "next_token", spec.train, resolved.budget, resolved.learning_rate,
        windows.tokens_per_epoch,
    )


def improvement_round(project: Project, base: Artifact, dataset: Artifact, feedback: Artifact) -> Round:
    """On from ``base``: each batch holds new answers and, as ``improve.replay`` says, windows of the old data."""
    spec, resolved = project.spec, project.resolved
    name, head = _names(project)
    model = load_model(base.path)
    answers = Documents(Shard(feedback.path, "train"), model.shape.context, spec.seed, name, head)
    old = Windows(Shard(dataset.path, "train"), model.shape.context, spec.seed + 1, name, head)
    fresh = 1 - spec.improve.replay
    steps = max(8, math.ceil(FEEDBACK_PASSES * answers.documents / (resolved.batch * fresh)))
    budget = spec.improve.budget or Budget(steps, "steps")
    rate = spec.improve.learning_rate or resolved.learning_rate / 5
    settings = spec.train.model_copy(update={"warmup": 0.1, "accumulate": 1})
    return Round(
        (base.id, dataset.id, feedback.id), model, Mixed(old, answers, fresh), "next_token_per_row", settings, budget, rate,
        answers.documents * model.shape.context,
    )


def train_model(project: Project, store: Store, dataset: Artifact, round: Round) -> Artifact:
    """Train, or go on with an interrupted training of the same thing; the artifact is a Hugging Face folder with its history."""
    spec, batch = project.spec, project.resolved.batch
    runtime = choose_runtime(spec.train.precision, spec.train.threads)
    config: dict[str, Any] = {
        "model": project.resolved.shape.as_dict(), "dropout": _dropout(project), "train": round.settings.model_dump(mode="json"),
        "budget": round.budget.exact(), "learning_rate": round.learning_rate, "batch": batch, "seed": spec.seed,
        "objective": round.objective, "replay": spec.improve.replay if len(round.parents) > 1 else None,
        "device": runtime.device.type, "precision": runtime.precision, "threads": runtime.threads,
    }
    for unimportant in ("checkpoint_every", "keep_checkpoints"):  # they change no weight
        config["train"].pop(unimportant)
    making = store.making("model", round.parents, config, VERSION, spec.seed)
    if cached := making.cached():
        return cached
    say(f"training in {runtime.precision} on {runtime.threads} thread{'s' * (runtime.threads > 1)} ({runtime.reason})")
    workspace = store.workspace(making.id)
    counts = _run(project, round, dataset, runtime, workspace)
    with making.draft() as draft:
        _write(draft, round.model, dataset, workspace)
        draft.counts.update(counts)
    shutil.rmtree(workspace)
    return making.open()


def _run(project: Project, round: Round, dataset: Artifact, runtime: Runtime, workspace: Path) -> dict[str, object]:
    """The loop with its hooks; gives the manifest's counts."""
    name, head = _names(project)
    shape, batch, settings = round.model.shape, project.resolved.batch, round.settings
    held_out = Windows(Shard(dataset.path, "validation"), shape.context, 0, name, head)
    steps = max(1, min(settings.validate_tokens, held_out.tokens_per_epoch) // (batch * shape.context))
    horizon = Horizon.of(round.budget, batch * shape.context, round.tokens_per_epoch)
    round.model.to(runtime.device)
    loop = Loop(
        round.model, OBJECTIVES[round.objective], round.batches,
        lambda model: mean_loss(model, held_out, batch, steps, runtime), horizon, settings, batch, round.learning_rate, runtime,
        workspace,
    )
    peak = matrix_peak(runtime)
    torch.manual_seed(project.spec.seed)  # of dropout's masks; a checkpoint brings its own state
    begin = loop.resume()
    resumed = begin.step
    if resumed:
        say(f"going on from the checkpoint at step {resumed} ({format_count(begin.tokens)} tokens)")
    board = TensorBoardHook(workspace / "tensorboard", resumed)
    try:
        with task("training", 1.0) as progress:
            progress.done = horizon.progress(begin)
            end = loop.run([ProgressHook(progress, shape.train_flops, peak), board])
    finally:
        board.close()
        loop.history.close()
    speed = end.tokens / end.seconds
    return {
        "steps": end.step, "tokens": end.tokens, "seconds": significant(end.seconds), "loss": end.loss,
        "validation_loss": end.validation_loss, "parameters": shape.parameters, "tokens_per_second": significant(speed),
        "flops_share": significant(speed * shape.train_flops / peak), "matrix_peak": peak, "peak_memory": peak_memory(),
        "budget": str(round.budget), "resumed_at": resumed, "shape": shape.as_dict(),
        "derived": [{"key": d.key, "value": str(d.value), "reason": d.reason} for d in project.resolved.reasons],
        "runtime": {
            "device": runtime.device.type, "precision": runtime.precision, "threads": runtime.threads, "reason": runtime.reason,
        },
    }


def _write(draft: Draft, model: LanguageModel, dataset: Artifact, workspace: Path) -> None:
    save_model(model.to("cpu"), draft.path)
    shutil.copy(dataset.path / "tokenizer.json", draft.path)
    shutil.copy(workspace / "history.jsonl", draft.path)
    shutil.copytree(workspace / "tensorboard", draft.path / "tensorboard")


def _names(project: Project) -> tuple[str, str]:
    return next(iter(project.spec.model.inputs)), next(iter(project.spec.model.heads))


def _dropout(project: Project) -> float:
    trunk = project.spec.model.trunk.transformer
    return trunk.dropout if trunk else 0.0
