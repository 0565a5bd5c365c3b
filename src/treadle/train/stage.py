"""dataset -> model: from fresh weights, or on from a version that is live, with its old data replayed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.core.machine import peak_memory
from treadle.core.paths import file_digest, find_path
from treadle.core.progress import say, task
from treadle.core.project import Project
from treadle.core.runtime import Runtime, choose_runtime, matrix_peak
from treadle.data.loader import Chosen, Examples, Mixed, Windows, permutation
from treadle.data.masking import Masked, Masker
from treadle.data.packing import Packed
from treadle.data.rows import Documents
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.shards import Shard
from treadle.data.table import Table
from treadle.data.tokenizer import load_tokenizer
from treadle.model.flops import COUNTED, forward_flops
from treadle.model.generate import TextModel
from treadle.model.model import LanguageModel, make_model
from treadle.model.network import load_network, make_network
from treadle.model.open_weights import WEIGHTS
from treadle.model.start import take_over
from treadle.model.text import load_text_model, save_text_model
from treadle.spec.derive import Derived, Reasons
from treadle.spec.optimizers import Optimizer
from treadle.spec.train import Train
from treadle.spec.units import Budget, format_count, significant
from treadle.store.artifacts import Artifact, Draft, Making, Store
from treadle.store.kept import SETTLED, Kept
from treadle.store.start import open_start
from treadle.train.going_on import Base, drop_states, earlier_part, keep_states, open_base
from treadle.train.hooks import Hook, ProgressHook
from treadle.train.loop import Horizon, Loop, mean_loss
from treadle.train.naive import naive_loss
from treadle.train.objectives import OBJECTIVES
from treadle.train.profile import TRACE
from treadle.train.watching import WORST, Watchers

VERSION = 5
_NO_WEIGHTS = ("checkpoint_every", "keep_checkpoints", "keep_every", "keep_best", "continue_from", "log_to", "profile", "recompute")
"""Settings that change no weight."""
_MACHINE = ("device", "precision", "threads", "workers")
"""Of what a model is made of: what changes no more than the rounding."""
FEEDBACK_RATE = 1 / 40
"""Peak rate of a round of improvement whose rate is not given, as a share of the first training's: a finished model unlearns fast
at the rate that it once began with (docs/experiments.md)."""
_FEW = 256
"""Records of the train part that are measured beside fewer of the validation part: the mean of a handful says little."""
FEEDBACK_PASSES = 8
"""Times that each feedback answer is seen in a round of improvement whose budget is not given."""


@dataclass(frozen=True)
class Round:
    """What one training run is made of: a first training, or a round of improvement."""

    parents: tuple[str, ...]
    make: Callable[[], TextModel]
    """The model that is trained on from here."""
    batches: Examples
    held_out: Examples
    objective: str
    settings: Train
    budget: Budget
    learning_rate: float
    per_epoch: int
    """Units in one pass over the data."""
    held_out_units: int
    """Units in one pass over the validation part."""
    reasons: tuple[Derived, ...]
    """What was given or chosen, and why."""
    sample: Chosen | None = None
    """Examples that are trained on, as they are without random changes: about as many as are validated on, and measured alike. None
    in a round of improvement, whose validation part is of old data alone."""
    base: Base | None = None
    """What ``train.continue_from`` names."""

    @cached_property
    def model(self) -> TextModel:
        """Made when it is first asked for: a run that finds its model in the store never does."""
        return self.make()

    @property
    def language(self) -> bool:
        """Whether it is a ``LanguageModel``."""
        return self.objective.startswith("next_token")

    @property
    def unit(self) -> str:
        """What the run counts."""
        return "tokens" if self.held_out.context else "records"

    @property
    def per_row(self) -> int:
        """Units in one row of a batch."""
        return self.held_out.context or 1

    @property
    def may_go_on(self) -> bool:
        """Whether a later training may go on from this one: not from a round of improvement."""
        return self.sample is not None

    def watched(self, batch: int) -> int:
        """Examples that are validated on: all records, of tokens as many whole batches as the settings say."""
        return watched_rows(self.held_out, self.held_out_units, self.settings, batch)


def watched_rows(held_out: Examples, units: int, settings: Train, batch: int) -> int:
    """Of a validation part of so many ``units``, tokens or records."""
    if not held_out.context:
        return units
    return batch * max(1, min(settings.validate_tokens, units) // (batch * held_out.context))


def first_round(project: Project, dataset: Artifact) -> Round:
    """Fresh weights on the dataset's train part."""
    spec, resolved = project.spec, project.resolved
    settings = spec.train.model_copy(update={"accumulate": spec.train.parts})
    base = _base(project, dataset)
    parents = (dataset.id, base.model.id) if base else (dataset.id,)
    if dataset.counts.get("kind") == "records":
        schema = Schema.load(dataset.path)
        table, held_out = (open_table(dataset, schema, part, spec.seed) for part in ("train", "validation"))
        known = np.sort(permutation(spec.seed, 0, table.records, 2)[: max(held_out.records, _FEW)])
        plain = Table.open(dataset.path, "train", list(schema.inputs), list(schema.targets), shuffle=False)
        return Round(
            parents, partial(_network, project, schema), table, held_out, "answers", settings, resolved.budget,
            resolved.learning_rate, table.records, held_out.records, resolved.reasons, Chosen(plain, known), base,
        )
    name, head = _names(project)
    context = spec.model.text.context
    cut = _rows_of(spec.model.is_language)
    windows = cut(Shard(dataset.path, "train"), context, spec.seed, name, head)
    watched = cut(Shard(dataset.path, "validation"), context, 0, name, head)
    seen: tuple[Examples, Examples] = (windows, watched)
    as_it_is: Examples = windows
    if spec.model.masks:
        assert isinstance(windows, Windows)
        assert isinstance(watched, Windows)
        tokenizer, hidden = load_tokenizer(dataset.path / "tokenizer.json"), spec.model.heads[head].settings
        seen = (Masked(windows, Masker(tokenizer, hidden, spec.seed)), Masked(watched, Masker(tokenizer, hidden, 0)))
        as_it_is = Masked(windows, Masker(tokenizer, hidden, 0))
    rows = min(watched_rows(watched, watched.tokens_per_epoch, spec.train, resolved.batch), windows.windows)
    objective = "next_token" if spec.model.is_language else "answers"
    return Round(
        parents, partial(_text_model, project, dataset), *seen, objective, settings, resolved.budget, resolved.learning_rate,
        windows.tokens_per_epoch, watched.tokens_per_epoch, resolved.reasons, Chosen(as_it_is, np.arange(rows, dtype=np.int64)),
        base,
    )


def _rows_of(language: bool) -> type[Packed] | type[Windows]:
    """How running text becomes rows: a language model keeps documents apart; what a recurrent net has read, it carries on."""
    return Packed if language else Windows


def _base(project: Project, dataset: Artifact) -> Base | None:
    """What ``train.continue_from`` names. Raises ``UserError`` where ``dataset`` means other things by the same numbers."""
    base = open_base(project)
    if base is None:
        return None
    file = _described(dataset)
    if (base.model.path / file).read_bytes() != (dataset.path / file).read_bytes():
        what = "words or characters" if file == "tokenizer.json" else "categories or scales"
        cure = "change 'data:' back, or begin with model.start_from, which brings its words along"
        raise UserError(f"train.continue_from: {base.model.id} has learned other {what} than this data gives", cure=cure)
    return base


def _records_improvement(project: Project, base: Artifact, dataset: Artifact, feedback: Artifact) -> Round:
    """The same for records: right answers mixed with the old records, whose statistics stay as they were."""
    spec = project.spec
    schema = Schema.load(base.path)
    answers = open_table(feedback, schema, "train", spec.seed)
    old, watched = open_table(dataset, schema, "train", spec.seed + 1), open_table(dataset, schema, "validation", spec.seed)
    settings = _round_settings(project).model_copy(update={"patience": None})
    budget, rate, reasons = _pace(project, settings.optimizer, answers.records)
    return Round(
        (base.id, dataset.id, feedback.id), partial(load_network, base.path), Mixed(old, answers, 1 - spec.improve.replay), watched,
        "answers", settings, budget, rate, answers.records, watched.records, reasons,
    )


def _round_settings(project: Project) -> Train:
    """A round of improvement takes AdamW unless another optimiser is given: it is for steps that leave most as it is."""
    train = project.spec.train
    optimizer = train.optimizer if "optimizer" in train.model_fields_set else Train().optimizer
    return train.model_copy(update={"warmup": 0.1, "accumulate": 1, "optimizer": optimizer})


def _pace(project: Project, optimizer: Optimizer, answers: int) -> tuple[Budget, float, tuple[Derived, ...]]:
    """Length and peak rate of a round over so many ``answers``, and the reasons for all that it uses."""
    improve, resolved = project.spec.improve, project.resolved
    first = resolved.learning_rate * optimizer.rate / project.spec.train.optimizer.rate
    steps = max(8, math.ceil(FEEDBACK_PASSES * answers / (resolved.batch * (1 - improve.replay))))
    reasons = Reasons(row for row in resolved.reasons if row.key not in ("optimizer", "learning_rate", "budget"))
    if optimizer != project.spec.train.optimizer:
        reasons.append(Derived("optimizer", optimizer.kind, "its small steps leave most as it is"))
    why = f"{FEEDBACK_RATE:g} of a first training's {first:g}: a finished model unlearns fast"
    rate = reasons.pick("learning_rate", improve.learning_rate, first * FEEDBACK_RATE, why)
    why = f"{FEEDBACK_PASSES} passes over {answers} answers, and their replay"
    budget = reasons.pick("budget", improve.budget, Budget(steps, "steps"), why)
    why = "share of each batch that is old training data, so that old skills stay"
    reasons.append(Derived("replay", f"{improve.replay:.0%}", why))
    return budget, rate, tuple(reasons)


def _network(project: Project, schema: Schema) -> TextModel:
    """Of records, with fresh weights, or those of ``model.start_from``."""
    spec = project.spec
    model = make_network(spec.model, schema.layouts, spec.seed, project.folder)
    if start := open_start(project):
        count = len(take_over(model, start.folder))
        say(f"starting from the {count} token and trunk weights of {spec.model.start_from}")
    return model


def _text_model(project: Project, dataset: Artifact) -> TextModel:
    """Of running text, with fresh weights: in a public layout where there is one, else a network."""
    model, seed = project.spec.model, project.spec.seed
    name, head = _names(project)
    if model.is_language:
        trunk = model.trunk.transformer
        assert trunk is not None
        return make_model(project.resolved.language, seed, trunk.dropout, name, head)
    vocabulary = int(dataset.counts["vocabulary"])
    layouts = {
        "inputs": {name: Layout("text", vocabulary=vocabulary, length=model.text.context)},
        "heads": {head: Layout(model.heads[head].kind, vocabulary=vocabulary)},
    }
    return make_network(model, layouts, seed)


def open_table(dataset: Artifact, schema: Schema, part: str, seed: int) -> Table:
    """A part of a dataset of records as examples; those of the train part are changed at random as their fields ask."""
    training = part == "train"
    changes, moves = (schema.changes(seed), schema.moves(seed)) if training else ({}, {})
    return Table.open(dataset.path, part, list(schema.inputs), list(schema.targets), seed, changes, training, moves)


def improvement_round(project: Project, base: Artifact, dataset: Artifact, feedback: Artifact) -> Round:
    """On from ``base``: each batch holds new answers and, as ``improve.replay`` says, windows of the old data."""
    spec = project.spec
    if feedback.counts.get("kind") == "records":
        return _records_improvement(project, base, dataset, feedback)
    name, head = _names(project)
    model = load_text_model(base.path)
    cut = _rows_of(isinstance(model, LanguageModel))
    watched = cut(Shard(dataset.path, "validation"), model.context, 0, name, head)
    answers = Documents(Shard(feedback.path, "train"), model.context, spec.seed, name, head)
    old = cut(Shard(dataset.path, "train"), model.context, spec.seed + 1, name, head)
    settings = _round_settings(project)
    budget, rate, reasons = _pace(project, settings.optimizer, answers.documents)
    objective = "next_token_per_row" if isinstance(model, LanguageModel) else "answers"
    return Round(
        (base.id, dataset.id, feedback.id), lambda: model, Mixed(old, answers, 1 - spec.improve.replay), watched, objective,
        settings, budget, rate, answers.documents * model.context, watched.tokens_per_epoch, reasons,
    )


def model_making(project: Project, store: Store, round: Round, runtime: Runtime) -> Making:
    """The model to be, and whether it is there already."""
    spec = project.spec
    config: dict[str, Any] = {
        "model": identity(project), "train": round.settings.model_dump(mode="json"),
        "budget": round.budget.exact(), "learning_rate": round.learning_rate, "batch": project.resolved.batch, "seed": spec.seed,
        "objective": round.objective, "replay": None if round.may_go_on else spec.improve.replay,
        "device": runtime.device.type, "precision": runtime.precision, "threads": runtime.threads,
        "workers": runtime.workers,
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
    config = {key: value for key, value in making.config.items() if key not in _MACHINE}
    config["train"] = {key: value for key, value in making.config["train"].items() if key not in _MACHINE}
    return store.workspace(store.identify("model", making.parents, config, making.version))


def _earlier_part(project: Project, store: Store, making: Making, round: Round) -> Base | None:
    """The last checkpoint of a finished training that this one, too, would come to."""
    size = project.resolved.batch * round.per_row
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
    size = batch * round.per_row
    watched, sample = round.watched(batch), round.sample
    horizon = Horizon.of(round.budget, size, round.per_epoch)
    naive = naive_loss(round.model, sample, len(sample), batch) if sample else None
    round.model.to(runtime.device)
    loop = Loop(
        round.model, OBJECTIVES[round.objective], round.batches,
        lambda model: mean_loss(model, round.held_out, batch, watched, runtime), horizon, settings, batch, round.learning_rate,
        runtime, workspace, round.unit,
        (lambda model: mean_loss(model, sample, batch, len(sample), runtime)) if sample else None,
    )
    peak = matrix_peak(runtime)
    torch.manual_seed(project.spec.seed)  # of dropout's masks; a checkpoint brings its own state
    begin = loop.resume(base)
    resumed = begin.step
    if resumed:
        whose = f" of {base.model.id}" if base and begin.begun == base.identity and resumed == base.step else ""
        say(f"going on from the checkpoint{whose} at step {resumed} ({format_count(begin.tokens)} {round.unit})")
    watchers = Watchers(
        project, dataset, round.model, round.batches, round.held_out, settings, batch, watched, runtime, workspace
    )
    note = {
        "model": making.id, "unit": round.unit, "budget": str(round.budget), "steps": horizon.steps, "seconds": horizon.seconds,
        "flops": flops, "peak": peak,
    }
    try:
        with task("training", 1.0) as progress, watchers.at_work(resumed, note, making.config) as boards:
            progress.done = horizon.progress(begin)
            end = loop.run([ProgressHook(progress, flops, peak, round.unit), *boards, *hooks])
    finally:
        loop.close()
    speed = end.tokens / end.seconds
    shape = round.model.shape.as_dict() if isinstance(round.model, LanguageModel) else None
    return {
        "unit": round.unit, "best_validation_loss": end.best if settings.patience else None,
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
        "runtime": {
            "device": runtime.device.type, "precision": runtime.precision, "threads": runtime.threads, "workers": runtime.workers,
            "reason": runtime.reason,
            "earlier": end.computed[:-1],
        },
    }


def round_runtime(project: Project, round: Round, flops: float) -> Runtime:
    """Where and how a round trains, of which one token or record takes ``flops``, as ``train_flops`` gives them."""
    settings, rows = round.settings, project.resolved.batch // round.settings.parts
    measured = project.resolved.threads if settings.threads is None else None
    runtime = choose_runtime(settings.precision, measured or settings.threads, flops * rows * round.per_row)
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
    return 3.0 * float(found["forward"]) / (batch * round.per_row)


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
    shutil.copy(dataset.path / _described(dataset), draft.path)
    shutil.copy(workspace / "history.jsonl", draft.path)
    shutil.copytree(workspace / "tensorboard", draft.path / "tensorboard")
    for path in (*workspace.glob(TRACE), *workspace.glob(f"{WORST}*.png")):
        shutil.copy(path, draft.path)


def _names(project: Project) -> tuple[str, str]:
    return next(iter(project.spec.model.inputs)), next(iter(project.spec.model.heads))


def _described(dataset: Artifact) -> str:
    """The file that says what a model's numbers mean."""
    return FIELDS_FILE if dataset.counts.get("kind") == "records" else "tokenizer.json"
