"""The loss of the best answer that looks at no input: what a model must get below to have learned anything from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.core.batch import IGNORE
from treadle.data.loader import Examples
from treadle.model.model import LanguageModel
from treadle.model.network import Network

_TINY = 1e-12


def naive_loss(model: LanguageModel | Network, examples: Examples, count: int, batch: int) -> float | None:
    """As ``model.loss`` of the first ``count`` examples, with their own frequencies, mean or quantiles as the answer to each; None
    for a kind of head that has no such answer."""
    parts = [examples.rows(np.arange(first, min(first + batch, count))).targets for first in range(0, count, batch)]
    if isinstance(model, LanguageModel):
        return _surprise([part[model.head] for part in parts])
    total = 0.0
    for name, layout in model.layouts["heads"].items():
        targets = [part[name] for part in parts]
        if layout.kind in _SURPRISE:
            found = _surprise([target.where(target >= _SURPRISE[layout.kind], IGNORE) for target in targets])
        elif layout.kind in _ANSWERS:
            found = _constant(model.heads[name], layout.kind, torch.cat(targets))
        else:
            return None
        total += model.weights[name] * found
    return total


def _surprise(targets: Sequence[Tensor]) -> float:
    """Entropy of the ids that are asked for (nats)."""
    flat = torch.cat([target[target != IGNORE].flatten() for target in targets])
    shares = flat.bincount().double() / max(1, len(flat))
    return float(-(shares * shares.clamp_min(_TINY).log()).sum())


def _constant(head: Any, kind: str, targets: Tensor) -> float:
    """The mean loss of ``head``'s own measure, of one and the same outputs for every row (B,)."""
    losses = head.losses(_ANSWERS[kind](head, targets).float().expand(len(targets), -1), targets)
    return float(losses.nanmean())


def _classes(head: Any, targets: Tensor) -> Tensor:
    counts = targets[targets >= 0].bincount(minlength=head.linear.out_features).double()
    shares = counts * (1.0 if head.weights is None else head.weights)
    return (shares / shares.sum()).clamp_min(_TINY).log()


def _yes(head: Any, targets: Tensor) -> Tensor:
    share = targets.nanmean().double()
    return torch.logit(head.yes * share / (head.yes * share + head.no * (1 - share)), eps=_TINY)[None]


def _number(head: Any, targets: Tensor) -> Tensor:
    known = targets[~targets.isnan()].double()
    if head.options["loss"] == "mse":
        return known.mean()[None]
    return torch.quantile(known, torch.tensor(head.quantiles or (0.5,)).double())


def _labels(head: Any, targets: Tensor) -> Tensor:
    return torch.logit(targets.double().mean(0), eps=1e-6)


_SURPRISE = {"next_token": 0, "masked_token": 0, "next_item": 1}
"""Kind of head whose answers are ids -> the lowest that is one."""
_ANSWERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "category": _classes, "binary": _yes, "number": _number, "labels": _labels,
}
"""Kind of head -> (head, right answers (B, ...)) -> the outputs (C,) of least loss."""
