"""The stages in order. Each gives an artifact named by what it was made from, so what is there already is not made again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from treadle.compress.stage import compress_model
from treadle.core.errors import GateRefused, Interrupted, TreadleError, UserError
from treadle.core.machine import peak_memory
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.data.given import need_files
from treadle.evaluate.compare import compare
from treadle.evaluate.folds import pool_folds
from treadle.evaluate.stage import evaluate_model
from treadle.feedback.curate import feedback_corpus, feedback_dataset
from treadle.feedback.promote import Decision, decide_improvement, decide_run
from treadle.model.network import Network
from treadle.plan.estimate import Plan, make_plan
from treadle.plan.estimate import compare as compare_plan
from treadle.plan.records import RecordsPlan, Training, plan_records
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset, make_table
from treadle.report.fitting import judge_fitting
from treadle.report.gather import read_history
from treadle.report.spending import judge_spending
from treadle.settle import settle
from treadle.spec.project import ProjectSpec
from treadle.spec.units import format_figure
from treadle.store.artifacts import Artifact, Store
from treadle.store.ledger import Ledger
from treadle.store.start import open_start
from treadle.train.rounds import first_round, improvement_round
from treadle.train.stage import identity, model_making, round_runtime, train_flops, train_model


@dataclass
class Workshop:
    """A project with its store and its ledger open."""

    project: Project
    store: Store
    ledger: Ledger
    _prepared: tuple[Artifact, Artifact] | None = None
    _settled: bool = False

    @classmethod
    def open(cls, project: Project) -> Workshop:
        return cls(project, Store(project.store), Ledger(project.store, project.ledger_url))

    def keep(self, artifact: Artifact) -> Artifact:
        """File a stage's artifact in the ledger."""
        self.ledger.record_artifact(artifact.manifest)
        return artifact

    def prepared(self) -> tuple[Artifact, Artifact]:
        """The corpus and the dataset. The sources are read once, however often a command asks. Raises ``UserError`` where a file
        that the model names is not there, before anything is read."""
        if self._prepared is None:
            need_files(self.project)
            open_start(self.project)
            corpus = self.keep(make_corpus(self.project, self.store))
            self._prepared = corpus, self.keep(make_dataset(self.project, self.store, corpus))
        return self._prepared

    def settle(self, dataset: Artifact | None = None) -> Project:
        """The project with plain numbers where its file leaves them to memory or to measuring, on ``dataset`` or else the prepared
        one; this project from now on."""
        if not self._settled:
            self.project, self._settled = settle(self.project, lambda: dataset or self.prepared()[1]), True
        return self.project


@dataclass
class Outcome:
    """What a run or a round made, what it measured, and what went live."""

    artifacts: dict[str, str] = field(default_factory=dict)
    scorecard: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Any] = field(default_factory=dict)
    """The scorecard of cross-validation, where ``evaluate.folds`` asks for it."""
    fitting: Mapping[str, Any] = field(default_factory=dict)
    """Whether the model over-fits or under-fits, and the cure."""
    spending: Mapping[str, Any] = field(default_factory=dict)
    """Where the time of training went."""
    package: Mapping[str, Any] = field(default_factory=dict)
    account: Mapping[str, Any] = field(default_factory=dict)
    redacted: Mapping[str, int] = field(default_factory=dict)
    """How many of each kind of secret and personal data were replaced in what was kept."""
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    """Stages whose artifact was there already, or begun by an earlier run: their time says nothing about the plan."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    decision: Decision | None = None
    version: int | None = None
    rollout: Mapping[str, Any] = field(default_factory=dict)
    """Kind and share, where the version stands beside the live one."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[list[Artifact]]:
        """Time a stage, which puts its artifacts into the list."""
        start, began = time.perf_counter(), datetime.now(UTC)
        made: list[Artifact] = []
        yield made
        self.seconds[stage] = time.perf_counter() - start
        self.artifacts |= {artifact.kind: artifact.id for artifact in made}
        began = began.replace(microsecond=began.microsecond // 1000 * 1000)  # as manifests have it
        if any(a.counts.get("resumed_at") or datetime.fromisoformat(a.manifest["created"]) < began for a in made):
            self.cached.append(stage)

    def compare(self, plan: Plan | RecordsPlan) -> None:
        """Set predicted beside measured, for the stages that were done from start to end."""
        fresh = {stage: seconds for stage, seconds in self.seconds.items() if stage not in self.cached}
        self.plan = compare_plan(plan.as_dict(), fresh, peak_memory())

    def as_dict(self) -> dict[str, Any]:
        conditions = [{"text": text, "holds": holds} for text, holds in self.decision.conditions] if self.decision else []
        return {
            "artifacts": self.artifacts, "scorecard": dict(self.scorecard), "folds": dict(self.folds),
            "fitting": dict(self.fitting), "spending": dict(self.spending), "package": dict(self.package),
            "account": dict(self.account), "redacted": dict(self.redacted), "cached": self.cached,
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            "plan": dict(self.plan), "promoted": self.decision.promote if self.decision else None, "conditions": conditions,
            "version": self.version, "rollout": dict(self.rollout), "peak_memory": peak_memory(),
        }


def build(workshop: Workshop, plan: Plan | RecordsPlan | None) -> Outcome:
    """The loop's build half: prepare, train, evaluate, compress, and promote if better. Raises ``GateRefused`` if it is not good
    enough; what was made stays, and the ledger says what happened."""
    project, store = workshop.project, workshop.store
    outcome = Outcome()
    with _recorded(workshop, "run", outcome):
        with outcome.timed("prepare") as made:
            corpus, dataset = workshop.prepared()
            made += [corpus, dataset]
        outcome.account, outcome.redacted = corpus.counts["account"], corpus.counts["redacted"]
        with outcome.timed("train") as made:
            project = workshop.settle()
            model = workshop.keep(train_model(project, store, dataset, first_round(project, dataset)))
            made.append(model)
        outcome.fitting = judge_fitting(read_history(store, model.manifest), model.counts, project.spec).as_dict()
        outcome.spending = judge_spending(model.counts)
        with outcome.timed("evaluate") as made:
            scorecard = workshop.keep(evaluate_model(project, store, model, dataset))
            made.append(scorecard)
        outcome.scorecard = scorecard.counts
        _pass_gate(scorecard)
        if project.spec.evaluate.folds:
            with outcome.timed("folds"):
                pooled = cross_validate(workshop, corpus)
            outcome.folds = pooled.counts
            outcome.artifacts["folds"] = pooled.id
        with outcome.timed("compress") as made:
            package = workshop.keep(compress_model(project, store, model, scorecard, dataset))
            made.append(package)
        outcome.package = package.counts
        if plan is not None:
            outcome.compare(plan)
        outcome.version, outcome.decision = _go_live(workshop, package, scorecard, dataset)
        outcome.rollout = _beside(workshop, outcome.version)
        if outcome.decision and not outcome.decision.promote:
            raise GateRefused(f"not promoted: {outcome.decision.reason}", cure="the live version stays; change data or settings")
    return outcome


def cross_validate(workshop: Workshop, corpus: Artifact) -> Artifact:
    """Train a model for each of ``evaluate.folds`` on all records but that fold; the scorecard of them all."""
    project, store = workshop.project, workshop.store
    cards = []
    for fold in range(project.spec.evaluate.folds or 0):
        say(f"fold {fold + 1} of {project.spec.evaluate.folds}")
        dataset = workshop.keep(make_table(project, store, corpus, fold))
        model = workshop.keep(train_model(project, store, dataset, first_round(project, dataset)))
        cards.append(workshop.keep(evaluate_model(project, store, model, dataset)))
    return workshop.keep(pool_folds(project, store, corpus, cards))


def improve(workshop: Workshop) -> Outcome:
    """The loop's other half: feedback -> data -> new version -> gate -> promote or refuse (``GateRefused``)."""
    project, store, ledger = workshop.project, workshop.store, workshop.ledger
    live = live_package(workshop)
    base = store.open(live.parents[0])
    dataset = store.open(_dataset_of(store, base))
    project = workshop.settle(dataset)
    outcome = Outcome()
    with _recorded(workshop, "improve", outcome):
        with outcome.timed("prepare") as made:
            corpus = workshop.keep(feedback_corpus(project, store, ledger, base))
            answers = workshop.keep(feedback_dataset(project, store, corpus, base))
            made += [corpus, answers]
        outcome.account, outcome.redacted = corpus.counts["account"], corpus.counts["redacted"]
        with outcome.timed("train") as made:
            model = workshop.keep(train_model(project, store, dataset, improvement_round(project, base, dataset, answers)))
            made.append(model)
        with outcome.timed("evaluate") as made:
            cards = [workshop.keep(evaluate_model(project, store, m, dataset)) for m in (base, model)]
            new_cards = [workshop.keep(evaluate_model(project, store, m, answers, baselines=False)) for m in (base, model)]
            made.append(cards[1])
        outcome.scorecard = cards[1].counts
        settings = project.spec
        gained = compare(new_cards[0], new_cards[1], settings.evaluate.resamples, settings.seed)
        kept = compare(cards[0], cards[1], settings.evaluate.resamples, settings.seed)
        outcome.decision = decide_improvement(*gained, *kept, settings.improve.max_loss, cards[1].counts["measure"])
        if not outcome.decision.promote:
            raise GateRefused(f"not promoted: {outcome.decision.reason}", cure=_improvement_cure(outcome.decision, model, settings))
        with outcome.timed("compress") as made:
            package = workshop.keep(compress_model(project, store, model, cards[1], dataset))
            made.append(package)
        outcome.package = package.counts
        outcome.version = _introduce(workshop, package.id, outcome.decision.reason)
        outcome.rollout = _beside(workshop, outcome.version)
    return outcome


def _improvement_cure(decision: Decision, model: Artifact, spec: ProjectSpec) -> str:
    """What to turn, by the condition that failed and from the value that it has now."""
    (_, gained), (_, kept) = decision.conditions
    found = ["the live version stays"]
    if not gained:
        found.append(f"collect more feedback, or learn longer from it: improve.budget, now {model.counts['steps']} steps")
    if not kept:
        found.append(
            f"to forget less, lower improve.learning_rate, now {model.config['learning_rate']:.2g}, or raise improve.replay, now "
            f"{spec.improve.replay:.0%}; to allow more, raise improve.max_loss, now {spec.improve.max_loss:.1%}"
        )
    return "; ".join(found)


def live_package(workshop: Workshop) -> Artifact:
    """The package that is served. Raises ``UserError`` where none is."""
    live = workshop.ledger.live()
    if live is None:
        raise UserError("no version is live yet", cure="run 'treadle run' first")
    return workshop.store.open(live["package"])


def plan(workshop: Workshop, only_new: bool = False) -> Plan | RecordsPlan | None:
    """What a run will take, before it is spent. But of a language model the data is prepared first, since all follows from it.
    ``only_new``: None where the model is there already, so that nothing is timed for it."""
    project, store = workshop.settle(), workshop.store
    if project.resolved.shape is not None:
        return make_plan(project, store, workshop.ledger)
    dataset = workshop.prepared()[1]
    round, spec, batch = first_round(project, dataset), project.spec, project.resolved.batch
    flops = train_flops(project, round)
    runtime = round_runtime(project, round, flops)
    if only_new and store.has(model_making(project, store, round, runtime).id):
        return None
    assert isinstance(round.model, Network)
    alike = len(round.sample) if round.sample else 0
    step = spec.train.model_dump(mode="json", include={"accumulate", "optimizer", "groups", "clip"})
    known = {"model": identity(project), "dataset": dataset.id, "batch": batch, **step}
    return plan_records(project, store.root, Training(
        round.model, round.batches, round.held_out, round.watched(batch) + alike, round.per_epoch, flops, known, runtime,
    ))


def _pass_gate(scorecard: Artifact) -> None:
    failed = [row for row in scorecard.counts["gate"] if not row["passed"]]
    if failed:
        figures = "; ".join(
            f"{row['metric']} {format_figure(row['value'])} (95% interval {format_figure(row['low'])} to "
            f"{format_figure(row['high'])}) is not {row['bound']}"
            for row in failed
        )
        cure = "train longer or deeper, give more data, or lower evaluate.gate; the scorecard is in 'treadle report'"
        raise GateRefused(f"the gate refused: {figures}", cure=cure)


def _go_live(
    workshop: Workshop, package: Artifact, scorecard: Artifact, dataset: Artifact
) -> tuple[int | None, Decision | None]:
    """Promote ``package`` if it is the first or better than what is live; gives the live version, and any decision."""
    project, store, ledger = workshop.project, workshop.store, workshop.ledger
    live = ledger.live()
    if live is None:
        return ledger.promote(package.id, "the first version that passed the gate"), None
    if live["package"] == package.id:
        say(f"version {live['version']} is this package already")
        return int(live["version"]), None
    base = store.open(store.open(live["package"]).parents[0])
    if base.id == package.parents[0]:
        return _introduce(workshop, package.id, f"the model of version {live['version']}, packaged anew"), None
    earlier = workshop.keep(evaluate_model(project, store, base, dataset))
    change, before = compare(earlier, scorecard, project.spec.evaluate.resamples, project.spec.seed)
    decision = decide_run(change, before, live["version"], scorecard.counts["measure"])
    version = _introduce(workshop, package.id, decision.reason) if decision.promote else int(live["version"])
    return version, decision


def _introduce(workshop: Workshop, package: str, reason: str) -> int:
    """Make ``package`` live, or a candidate beside the live version where ``serve.rollout`` says so; its version."""
    ledger, how = workshop.ledger, workshop.project.spec.serve.rollout
    if how.kind is None:
        return ledger.promote(package, reason)
    there = ledger.rollout()
    if there is not None and there.package == package:
        say(f"version {there.version} is this package already, and stands beside the live one")
        return there.version
    return ledger.start_rollout(how.kind, package, reason, how.share, how.alpha).version


def _beside(workshop: Workshop, version: int | None) -> dict[str, Any]:
    """Kind and share where ``version`` is the candidate."""
    found = workshop.ledger.rollout()
    return {"kind": found.kind, "share": found.share} if found is not None and found.version == version else {}


def _dataset_of(store: Store, model: Artifact) -> str:
    """The dataset that a model was first trained on: its own parent, or that which its improvement replayed."""
    return next(parent for parent in model.parents if parent.startswith("dataset-"))


@contextmanager
def _recorded(workshop: Workshop, word: str, outcome: Outcome) -> Iterator[None]:
    """File the run in the ledger, however it ends."""
    id = workshop.ledger.start_run(word)
    try:
        yield
    except TreadleError as error:
        error.figures = outcome.as_dict()
        ended = "refused" if isinstance(error, GateRefused) else "stopped" if isinstance(error, Interrupted) else "failed"
        workshop.ledger.end_run(id, ended, {**error.figures, "error": error.message})
        raise
    except BaseException as error:
        ended = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        workshop.ledger.end_run(id, ended, {**outcome.as_dict(), "error": repr(error)})
        raise
    workshop.ledger.end_run(id, "done", outcome.as_dict())
