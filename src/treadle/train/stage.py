"""dataset -> model: the artifact that a round of training makes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from treadle.core.machine import peak_memory
from treadle.core.paths import file_digest, find_path
from treadle.core.progress import say, task
from treadle.core.project import Project
from treadle.core.runtime import WAY, Runtime, choose_runtime, matrix_peak
from treadle.data.packing import Packed
from treadle.model.flops import COUNTED, forward_flops
from treadle.model.memory import TextModel
from treadle.model.model import LanguageModel
from treadle.model.open_weights import WEIGHTS
from treadle.model.text import save_text_model
from treadle.spec.units import Budget, format_count, significant
from treadle.store.artifacts import Artifact, Draft, Making, Store
from treadle.store.kept import SETTLED, Kept
from treadle.store.start import open_start
from treadle.train.going_on import Base, drop_states, earlier_part, keep_states
from treadle.train.hooks import Hook, ProgressHook
from treadle.train.loop import Horizon, Loop, mean_loss
from treadle.train.naive import naive_loss
from treadle.train.objectives import OBJECTIVES
from treadle.train.profile import TRACE
from treadle.train.rounds import Round, described
from treadle.train.watching import WORST, Watchers

VERSION = 7
_NO_WEIGHTS = ("checkpoint_every", "keep_checkpoints", "keep_every", "keep_best", "continue_from", "log_to", "profile", "recompute")
"""Settings that change no weight."""


def model_making(project: Project, store: Store, round: Round, runtime: Runtime) -> Making:
    """The model to be, and whether it is there already."""
    spec = project.spec
    config: dict[str, Any] = {
        "model": identity(project), "train": round.settings.model_dump(mode="json"),
        "budget": round.budget.exact(), "learning_rate": round.learning_rate, "batch": project.resolved.batch, "seed": spec.seed,
        "objective": round.objective, "replay": None if round.may_go_on else spec.improve.replay,
        **runtime.way,
    }
    if round.base:
        config["continue_from"] = round.base.identity
    for no_weight_changes in _NO_WEIGHTS:
        config["train"].pop(no_weight_changes)
    return store.making("model", round.parents, config, VERSION, spec.seed)


def train_model(project: Project, store: Store, dataset: Artifact, round: Round, hooks: Sequence[Hook] = ()) -> Artifact:
    """Train, or go on with an interrupted training of the same thing, or from the steps that a finished one shares with it; the
    artifact is a Hugging Face folder with its history. ``hooks`` watch beside the progress line; what one raises ends the
    training."""
    flops = train_flops(project, round)
    runtime = round_runtime(project, round, flops)
    making = model_making(project, store, round, runtime)
    if cached := making.cached():
        if round.settings.profile and not cached.counts.get("profile"):
            say("train.profile: this model is there already, so no step was taken that could be profiled")
        return cached
    say(f"training in {runtime.precision} on {runtime.threads} thread{'s' * (runtime.threads > 1)} ({runtime.reason})")
    if isinstance(round.batches, Packed):
        say(round.batches.words())
    workspace = _workspace(store, making)
    with store.alone(workspace):
        if round.base:
            round.base.stay()
        base = round.base or _earlier_part(project, store, making, round)
        counts = _run(project, round, dataset, runtime, flops, workspace, base, hooks, making)
        may_go_on = round.may_go_on and "fold" not in dataset.counts
        if may_go_on:
            keep_states(store, making.id, workspace, counts["checkpoints"], round.settings)
        with making.draft() as draft:
            _write(draft, round.model, dataset, workspace)
            draft.counts.update(counts)
        store.discard(workspace)
    if may_go_on:
        drop_states(store, making.id)
    return making.open()


def _workspace(store: Store, making: Making) -> Path:
    """The same whatever machine computes, so that a run that was interrupted is found again on another."""
    config = {key: value for key, value in making.config.items() if key not in WAY}
    config["train"] = {key: value for key, value in making.config["train"].items() if key not in WAY}
    return store.workspace(store.identify("model", making.parents, config, making.version))


def _earlier_part(project: Project, store: Store, making: Making, round: Round) -> Base | None:
    """The last checkpoint of a finished training that this one, too, would come to."""
    size = project.resolved.batch * round.held_out.per_row
    horizon = Horizon.of(round.budget, size, round.per_epoch)

    def agrees(budget: Budget, step: int) -> bool:
        other = Horizon.of(budget, size, round.per_epoch)
        return step != horizon.steps and horizon.same_rates(other, step, round.learning_rate, round.settings)

    return earlier_part(store, making, round.settings, agrees)


def _run(
    project: Project, round: Round, dataset: Artifact, runtime: Runtime, flops: float, workspace: Path, base: Base | None,
    hooks: Sequence[Hook], making: Making,
) -> dict[str, Any]:
    """The loop with its hooks; gives the manifest's counts."""
    batch, settings = project.resolved.batch, round.settings
    size, unit = batch * round.held_out.per_row, round.held_out.unit
    watched, sample = round.watched(batch), round.sample
    horizon = Horizon.of(round.budget, size, round.per_epoch)
    naive = naive_loss(round.model, sample, len(sample), batch) if sample else None
    round.model.to(runtime.device)
    loop = Loop(
        round.model, OBJECTIVES[round.objective], round.batches,
        lambda model: mean_loss(model, round.held_out, batch, watched, runtime), horizon, settings, batch, round.learning_rate,
        runtime, workspace, unit,
        (lambda model: mean_loss(model, sample, batch, len(sample), runtime)) if sample else None,
    )
    peak = matrix_peak(runtime)
    torch.manual_seed(project.spec.seed)  # of dropout's masks; a checkpoint brings its own state
    begin = loop.resume(base)
    resumed = begin.step
    if resumed:
        whose = f" of {base.model.id}" if base and begin.begun == base.identity and resumed == base.step else ""
        say(f"going on from the checkpoint{whose} at step {resumed} ({format_count(begin.tokens)} {unit})")
    watchers = Watchers(
        project, dataset, round.model, round.batches, round.held_out, settings, batch, watched, runtime, workspace
    )
    note = {
        "model": making.id, "unit": unit, "budget": str(round.budget), "steps": horizon.steps, "seconds": horizon.seconds,
        "flops": flops, "peak": peak,
    }
    try:
        with task("training", 1.0) as progress, watchers.at_work(resumed, note, making.config) as boards:
            progress.done = horizon.progress(begin)
            end = loop.run([ProgressHook(progress, flops, peak, unit), *boards, *hooks])
    finally:
        loop.close()
    speed = end.tokens / end.seconds
    shape = round.model.shape.as_dict() if isinstance(round.model, LanguageModel) else None
    return {
        "unit": unit, "best_validation_loss": end.best if settings.patience else None,
        "stopped_early": horizon.progress(end) < 1.0,
        "steps": end.step, "tokens": end.tokens, "seconds": significant(end.seconds), "loss": end.loss,
        "validation_loss": end.validation_loss, "train_loss_eval": end.train_loss_eval, "naive_loss": naive,
        "parameters": round.model.parameter_count, "tokens_per_second": significant(speed),
        "flops_share": significant(speed * flops / peak), "matrix_peak": peak, "peak_memory": peak_memory(),
        "noise_scale": end.noise.value, "returns": [asdict(back) for back in end.watch.returns],
        "loss_scale": asdict(end.scaling) if runtime.scales_loss else None,
        "budget": str(round.budget), "resumed_at": resumed, "went_on_from": end.begun, "best_step": end.best_step,
        "checkpoints": loop.checkpoints.staying(end), "shape": shape,
        "spent": {name: significant(seconds) for name, seconds in end.spent.items()}, **watchers.counts,
        "derived": [d.as_dict() for d in round.reasons],
        "runtime": {**runtime.way, "reason": runtime.reason, "earlier": end.computed[:-1]},
    }


def round_runtime(project: Project, round: Round, flops: float) -> Runtime:
    """Where and how a round trains, of which one token or record takes ``flops``, as ``train_flops`` gives them."""
    settings, rows = round.settings, project.resolved.batch // round.settings.parts
    measured = project.resolved.threads if settings.threads is None else None
    runtime = choose_runtime(settings.precision, measured or settings.threads, flops * rows * round.held_out.per_row)
    if measured:
        runtime = replace(runtime, reason=f"{runtime.reason}; threads as measured")
    trunk = project.spec.model.trunk.transformer
    alone = round.objective == "next_token" and trunk is not None and trunk.dropout == 0.0
    return runtime.beside(rows, alone)


def train_flops(project: Project, round: Round) -> float:
    """FLOPs of one token or record, forward and backward: by arithmetic for a language model, else counted over one batch, once."""
    if round.may_go_on and project.resolved.shape is not None:
        return project.resolved.shape.train_flops
    if round.language:  # a round of improvement, whose model may be of a shape that the file no longer says
        assert isinstance(round.model, LanguageModel)
        return round.model.shape.train_flops
    batch, kept = project.resolved.batch, Kept(project.store / SETTLED)
    follows = ["flops", COUNTED, torch.__version__, identity(project), round.parents, batch, project.spec.seed]
    found = kept.find(follows)
    if found is None:
        round.model.eval()
        found = {"forward": forward_flops(partial(round.model.loss, round.batches.batch_at(0, batch)))}
        kept.keep(follows, found)
    return 3.0 * float(found["forward"]) / (batch * round.held_out.per_row)


def identity(project: Project) -> dict[str, Any]:
    """All that the weights follow from but the data and the training."""
    shape, model = project.resolved.shape, project.spec.model
    if shape is None:
        start = open_start(project)
        found = model.model_dump(mode="json") | {"start_from": start.content if start else None}
        if model.trunk.pretrained:  # whatever its path, its weights are what counts
            found["trunk"]["pretrained"]["folder"] = file_digest(find_path(model.trunk.pretrained.folder, project.folder) / WEIGHTS)
        return found
    trunk = project.spec.model.trunk.transformer
    assert trunk is not None
    return {**shape.as_dict(), "dropout": trunk.dropout}


def _write(draft: Draft, model: TextModel, dataset: Artifact, workspace: Path) -> None:
    model = model.to("cpu")
    save_text_model(model, draft.path)
    shutil.copy(dataset.path / described(dataset), draft.path)
    shutil.copy(workspace / "history.jsonl", draft.path)
    shutil.copytree(workspace / "tensorboard", draft.path / "tensorboard")
    for path in (*workspace.glob(TRACE), *workspace.glob(f"{WORST}*.png")):
        shutil.copy(path, draft.path)
