"""Whether a model over-fits, under-fits or neither, from the losses of records that it learns from and of records that it does not,
measured alike and at the same moments. Imports no torch.

The noise of a curve is the usual deviation of a point from the middle of its neighbours: 1.4826 times the median of
|y(i-1) - 2 y(i) + y(i+1)| / sqrt(6), which a straight line leaves at 0. A change counts if it is larger than three times that,
and than a hundredth of the loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from treadle.spec.project import ProjectSpec

FEWEST = 5
"""Validations; fewer show no course."""
_TAIL = 0.25
"""Last share of the validations, over which both losses are asked whether they still fell."""
_LEARNED = 0.1
"""Share of the naive loss that a model must take away to have learned more than the naive answer."""
_APART = 0.5
"""Training loss, as a share of the validation loss, below which the two are said to be far apart."""
WARNS = ("over-fits", "under-fits", "diverges", "stopped while learning")


@dataclass(frozen=True)
class Fitting:
    """``verdict``: over-fits, under-fits, diverges, stopped while learning, fits, or unknown. ``words`` say why in a sentence."""

    verdict: str
    words: str
    cure: str = ""
    since: int | None = None
    """Step of the lowest validation loss, of a model that over-fits."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"warns": self.verdict in WARNS}


@dataclass(frozen=True)
class _Curves:
    steps: Sequence[int]
    train: Sequence[float]
    validation: Sequence[float]

    @property
    def best(self) -> int:
        return min(range(len(self.validation)), key=lambda at: self.validation[at])


def judge_fitting(
    history: Sequence[Mapping[str, float]], counts: Mapping[str, Any], spec: ProjectSpec
) -> Fitting:
    """From the lines of history.jsonl, the model's counts, and the settings that a cure is looked for in."""
    curves = _curves(history)
    if len(curves.steps) < FEWEST:
        return Fitting("unknown", f"{len(curves.steps)} validations are too few to see whether it over-fits or under-fits")
    best, last = curves.best, len(curves.steps) - 1
    train, validation = curves.train, curves.validation
    if min(validation[-2:]) - validation[best] > _least(validation, validation[best]):
        fell = train[best] - train[-1] > -_least(train, train[best])
        return _over(curves, counts, spec) if fell else _diverged(curves, spec)
    naive = counts.get("naive_loss")
    if _falls(train) and _falls(validation) and not counts.get("stopped_early"):
        return _unfinished(curves, counts)
    if naive and train[-1] > (1 - _LEARNED) * naive:
        return _under(train[-1], naive, spec)
    words = f"neither over-fits nor under-fits: at the end the loss is {_both(curves, last)}, and no longer falls by much"
    if train[-1] < _APART * validation[-1]:
        words += ". The two are far apart: it knows its own records much better than others; more data may help"
    return Fitting("fits", words)


def _curves(history: Sequence[Mapping[str, float]]) -> _Curves:
    lines = [line for line in history if "train_loss_eval" in line and "validation_loss" in line]
    lines = [line for line in lines if math.isfinite(line["train_loss_eval"] + line["validation_loss"])]
    return _Curves(
        [int(line["step"]) for line in lines], [line["train_loss_eval"] for line in lines],
        [line["validation_loss"] for line in lines],
    )


def noise(curve: Sequence[float]) -> float:
    """Deviation of a point from its neighbours' course; of three points at least."""
    bends = [abs(b - a - (c - b)) / math.sqrt(6) for a, b, c in zip(curve, curve[1:], curve[2:], strict=False)]
    return 1.4826 * statistics.median(bends)


def _least(curve: Sequence[float], level: float) -> float:
    """The smallest change that counts."""
    return max(3 * noise(curve), 0.01 * abs(level))


def _falls(curve: Sequence[float]) -> bool:
    """Whether it still fell over its tail, and there in most of the steps."""
    tail = curve[-max(3, round(_TAIL * len(curve)) + 1) :]
    down = sum(b < a for a, b in pairwise(tail))
    return tail[0] - tail[-1] > _least(curve, tail[-1]) and down > (len(tail) - 1) / 2


def _both(curves: _Curves, at: int) -> str:
    return f"{curves.train[at]:.3g} on records that it learns from and {curves.validation[at]:.3g} on others"


def _over(curves: _Curves, counts: Mapping[str, Any], spec: ProjectSpec) -> Fitting:
    best, step = curves.best, curves.steps[curves.best]
    course = (
        f"since step {step} the validation loss rose from {curves.validation[best]:.3g} to {curves.validation[-1]:.3g}, while "
        f"that of records that it learns from went from {curves.train[best]:.3g} to {curves.train[-1]:.3g}"
    )
    if counts.get("best_validation_loss") is not None:  # patience: the weights are those of the best validation
        return Fitting("fits", f"began to over-fit: {course}. The weights of step {step} are kept (train.patience)", since=step)
    return Fitting("over-fits", f"over-fits: {course}", "; ".join(_less(spec)), step)


def _less(spec: ProjectSpec) -> list[str]:
    """What keeps a model from learning its records by heart, in the project's own settings."""
    trunk = spec.model.trunk
    found = ["train.patience: 3 stops in time and keeps the best weights"]
    dropout = getattr(trunk.settings, "dropout", 0.0)
    if dropout < 0.3:
        found.append(f"raise model.trunk.{trunk.kind}.dropout (is {dropout:g})")
    found.append(f"raise train.weight_decay (is {spec.train.weight_decay:g})")
    for name, given in spec.model.inputs.items():
        augment = getattr(given.settings, "augment", None)
        if augment is not None and not any(augment.model_dump().values()):
            found.append(f"change the {given.kind} at random with model.inputs.{name}.{given.kind}.augment")
    found.append("a smaller trunk, or more data")
    return found


def _diverged(curves: _Curves, spec: ProjectSpec) -> Fitting:
    best = curves.best
    words = (
        f"diverges: since step {curves.steps[best]} the loss rose, from {_both(curves, best)} to {_both(curves, -1)}: it unlearns"
    )
    cure = "lower train.learning_rate, or raise train.warmup"
    return Fitting("diverges", words, cure, curves.steps[best])


def _unfinished(curves: _Curves, counts: Mapping[str, Any]) -> Fitting:
    words = f"stopped while it was learning: at the end both losses still fell, to {_both(curves, -1)}"
    return Fitting("stopped while learning", words, f"raise train.budget (was {counts.get('budget', 'shorter')})")


def _under(train: float, naive: float, spec: ProjectSpec) -> Fitting:
    words = (
        f"under-fits: the loss no longer falls, and is {train:.3g} even on records that it learns from; the best answer that looks "
        f"at no input has {naive:.3g}. Either the model cannot take up what the inputs tell, or they tell nothing of the answer"
    )
    trunk = spec.model.trunk
    found = [f"a wider or deeper model.trunk.{trunk.kind}", "another train.learning_rate"]
    if dropout := getattr(trunk.settings, "dropout", 0.0):
        found.append(f"lower model.trunk.{trunk.kind}.dropout (is {dropout:g})")
    if spec.train.weight_decay > 0.1 or spec.train.l1:
        found.append(f"lower train.weight_decay (is {spec.train.weight_decay:g}) and train.l1 (is {spec.train.l1:g})")
    found.append("inputs that tell more")
    return Fitting("under-fits", words, "; ".join(found))
