"""The search for better settings: trials of the train stage, judged on the validation part. The test part is never looked at."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from treadle.core.errors import Interrupted, TreadleError, UserError, WorkError
from treadle.core.machine import process_lives, this_process
from treadle.core.progress import say
from treadle.core.project import Project, SpecError, load_project
from treadle.data.schema import Schema
from treadle.evaluate.answers import head_figures, score_records
from treadle.model.network import load_network
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.settle import settle
from treadle.spec.figures import FIGURES, LOWER, figures_of
from treadle.spec.tune import Range, Tune
from treadle.spec.units import significant
from treadle.store.artifacts import Artifact, Store
from treadle.train.hooks import Step
from treadle.train.rounds import first_round, open_table
from treadle.train.stage import train_model

_UNPRUNED = 5
"""Trials that run to their end before any is compared with their median."""


@dataclass
class Found:
    """The trials so far, and what is best."""

    study: str
    measure: str
    trials: list[dict[str, Any]] = field(default_factory=list)
    """number, state, value, settings, and why it failed."""
    best: Mapping[str, Any] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    """Share of the measure's variance that each setting explains (Hutter et al. 2014); empty where there are too few trials."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": self.study, "measure": self.measure, "trials": self.trials, "best": dict(self.best),
            "importance": dict(self.importance),
        }


@dataclass
class Search:
    """A project, what is varied of it, and the trials' storage."""

    project: Project
    overrides: Sequence[str] = ()
    """Of the file, as ``--set`` gave them."""
    datasets: dict[str, Artifact] = field(default_factory=dict)

    @property
    def tune(self) -> Tune:
        return self.project.spec.tune

    @property
    def lower(self) -> bool:
        return self.tune.measure.rpartition(".")[2] in LOWER

    def check(self) -> None:
        """Raise ``UserError`` for a search that is none, ``SpecError`` for a key or an end of a range that the file cannot take."""
        if not self.tune.search:
            cure = "for example 'tune: {search: {train.learning_rate: {low: 0.0003, high: 0.01, log: true}}}'"
            raise UserError("tune.search names nothing to try", cure=cure)
        head, _, figure = self.tune.measure.rpartition(".")
        model = self.project.spec.model
        heads = [name for name, given in model.heads.items() if figure in figures_of(given) and head in ("", name)]
        if self.tune.measure != "loss" and (len(heads) != 1 or model.predicts_text):
            raise UserError(f"tune.measure: {self.tune.measure!r} is not a figure of one head", cure="name it as in evaluate.gate")
        problems = []
        for key, wanted in self.tune.search.items():
            for value in (wanted.low, wanted.high) if isinstance(wanted, Range) else wanted:
                try:
                    self.with_settings({key: value})
                except SpecError as error:
                    problems += [problem for problem in error.problems if problem.file.startswith(f"--set {key}=")]
        if problems:
            raise SpecError(problems)

    def with_settings(self, settings: Mapping[str, Any]) -> Project:
        """The project with these values for these keys."""
        texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        return load_project(self.project.folder, [*self.overrides, *texts])

    def _name(self, dataset: Artifact) -> str:
        """Of the study: trials of the same data, settings and ranges are one, whatever their number."""
        spec = self.project.spec.model_dump(mode="json", include={"seed", "model", "train"})
        search = self.tune.model_dump(mode="json", exclude={"trials", "storage"})
        text = json.dumps([dataset.id, spec, search], sort_keys=True)
        return f"{self.project.spec.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def run(self) -> Found:
        """Try until there are ``tune.trials``. Raises ``Interrupted`` with what was found when it is stopped."""
        self.check()
        optuna = _optuna()
        name = self._name(self._dataset(self.project, Store(self.project.store)))
        with _storage_errors(optuna):
            storage = optuna.storages.RDBStorage(self.project.trials_url)
            direction = "minimize" if self.lower else "maximize"
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction=direction)
            _take_up(optuna, study)
            while (done := len(_counted(study))) < self.tune.trials:
                # Made anew for each trial, so that a search that was stopped goes on as if it had not been.
                study.sampler = optuna.samplers.TPESampler(seed=self.project.spec.seed + 1_000_003 * done)
                study.pruner = optuna.pruners.MedianPruner(_UNPRUNED, n_warmup_steps=2)
                self._one(optuna, study)
            return self._found(optuna, study)

    def _one(self, optuna: Any, study: Any) -> None:
        trial = study.ask()
        trial.set_user_attr("process", [socket.gethostname(), *this_process()])
        settings = {key: _suggest(trial, key, wanted) for key, wanted in self.tune.search.items()}
        trial.set_user_attr("settings", settings)
        shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in settings.items())
        say(f"trial {trial.number + 1} ({len(_counted(study)) + 1} of {self.tune.trials}): {shown}")
        state, value, why = optuna.trial.TrialState.FAIL, None, ""
        try:
            value = self._value(optuna, trial, settings)
            if not math.isfinite(value):
                raise WorkError(f"{self.tune.measure} is {value}")
            state, why = optuna.trial.TrialState.COMPLETE, f"{self.tune.measure} {value:.4g}"
        except optuna.TrialPruned as error:
            state, why = optuna.trial.TrialState.PRUNED, str(error)
        except (Interrupted, KeyboardInterrupt):
            _put_back(optuna, study, trial.number, trial.params)
            found = self._found(optuna, study)
            cure = "run the same command again: it goes on from here"
            stopped = Interrupted(f"stopped; {len(_counted(study))} of {self.tune.trials} trials are done and kept", cure=cure)
            stopped.figures = found.as_dict()
            raise stopped from None
        except TreadleError as error:
            why = error.message.splitlines()[0]
        trial.set_user_attr("why", why)
        study.tell(trial, value, state=state)
        say(f"trial {trial.number + 1}: {state.name.lower()}, {why}")

    def _value(self, optuna: Any, trial: Any, settings: Mapping[str, Any]) -> float:
        """Train, and measure on the validation part. Nothing of the model is kept but its figure; of a trial that is cut off, its
        checkpoint."""
        project = self.with_settings(settings)
        dataset = self._dataset(project, Store(project.store))
        place = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        trials = Store(project.store / "trials" / place)
        prune = _Prune(optuna, trial, self.lower, project.spec.train.validate_every)
        try:
            project = settle(project, lambda: dataset)
            model = train_model(project, trials, dataset, first_round(project, dataset), [prune])
            best, last = (model.counts[key] for key in ("best_validation_loss", "validation_loss"))
            value = self._figure(project, dataset, model) if self.tune.measure != "loss" else float(last if best is None else best)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception:
            shutil.rmtree(trials.root, ignore_errors=True)
            raise
        shutil.rmtree(trials.root)
        return value

    def _dataset(self, project: Project, store: Store) -> Artifact:
        spec = project.spec
        key = json.dumps([spec.data.model_dump(mode="json"), spec.model.model_dump(mode="json", exclude={"trunk"}), spec.seed])
        if key not in self.datasets:
            self.datasets[key] = make_dataset(project, store, make_corpus(project, store))
        return self.datasets[key]

    def _figure(self, project: Project, dataset: Artifact, model: Artifact) -> float:
        schema = Schema.load(dataset.path)
        table = open_table(dataset, schema, "validation", project.spec.seed)
        head, _, figure = self.tune.measure.rpartition(".")
        scores = score_records(load_network(model.path), table)
        name = head or next(name for name, found in scores.items() if figure in FIGURES[found.kind])
        return head_figures(scores[name], schema.targets[name], np.ones((1, table.records)))[figure].value

    def _found(self, optuna: Any, study: Any) -> Found:
        found = Found(study.study_name, self.tune.measure)
        for trial in _counted(study):
            attributes = trial.user_attrs
            found.trials.append({
                "number": trial.number + 1, "state": trial.state.name.lower(), "settings": attributes["settings"],
                "value": trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None, "why": attributes["why"],
            })
        known = [trial for trial in found.trials if trial["value"] is not None]
        if known:
            found.best = min(known, key=lambda trial: trial["value"] if self.lower else -trial["value"])
        if len(known) >= _UNPRUNED and len(self.tune.search) > 1 and len({trial["value"] for trial in known}) > 1:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
            found.importance = {key: significant(share, 3) for key, share in shares.items()}
        return found


class _Prune:
    """Ends a trial whose validation loss is above the median of the earlier ones at the same validation."""

    def __init__(self, optuna: Any, trial: Any, lower: bool, every: float) -> None:
        self.trial, self.sign, self.every, self.pruned = trial, 1.0 if lower else -1.0, every, optuna.TrialPruned

    def on_step(self, figures: Step) -> None:
        pass

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.trial.report(self.sign * loss, int(figures.progress / self.every + 1e-9) if self.every else 0)
        if figures.progress < 1 and self.trial.should_prune():
            raise self.pruned(f"validation loss {loss:.4g} after {figures.progress:.0%} is above the median")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("treadle tune needs optuna", cure="pip install 'treadle[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _suggest(trial: Any, key: str, wanted: Any) -> Any:
    """What is tried for ``key``: as it can be written down, so that the best settings give the very same run."""
    if not isinstance(wanted, Range):
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in wanted]))
    if isinstance(wanted.low, int) and isinstance(wanted.high, int):
        return trial.suggest_int(key, wanted.low, wanted.high, log=wanted.log)
    value = significant(trial.suggest_float(key, wanted.low, wanted.high, log=wanted.log))
    return min(max(value, float(wanted.low)), float(wanted.high))


def _counted(study: Any) -> list[Any]:
    """Trials that came to an end of their own."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and "why" in trial.user_attrs]


def _take_up(optuna: Any, study: Any) -> None:
    """Put the settings of trials whose process on this machine is no more in line again: training goes on from its checkpoint."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        host, *process = trial.user_attrs.get("process", ("", 0, 0.0))
        if host == socket.gethostname() and not process_lives(*process):
            _put_back(optuna, study, trial.number, trial.params)


def _put_back(optuna: Any, study: Any, number: int, params: Mapping[str, Any]) -> None:
    """Close a trial that was cut off, and put its settings first in line."""
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    if params:
        study.enqueue_trial(dict(params))


@contextmanager
def _storage_errors(optuna: Any) -> Iterator[None]:
    try:
        yield
    except TreadleError:
        raise
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ImportError) as error:
        raise UserError(f"tune.storage: {str(error).splitlines()[0]}", cure="check the URL and that its server runs") from None
