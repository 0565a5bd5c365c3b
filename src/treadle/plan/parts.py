"""In how many parts a batch is computed, so that a training step fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from treadle.core.batch import Batch
from treadle.core.runtime import Runtime
from treadle.model.layers.recompute import noted
from treadle.plan.counting import PROGRAM, divisors, train_memory
from treadle.spec.shape import Shape

_ENOUGH = 5e11
"""FLOPs of what a worker computes at once, from which on less would cost more than some hundredths of the time
(docs/experiments.md)."""
COUNTED = 1
"""Version of what is counted of a network, for those who keep it."""
_FLOAT = 4
_PASSING, _MOST = 8, 4
"""Tensors as large as the largest that is kept, which a step holds beside those, up to so many times all that are kept: gradients
in passing, what operations need while they run, and gaps between what was freed. On the safe side: measured were 3 to 8."""


def fewest_parts(batch: int, limit: int, needs: Callable[[int], int], least: int = 1) -> int | None:
    """The fewest equal parts of ``batch`` examples, at least ``least``, of which one at a time fits into ``limit`` bytes, where so
    many examples at once need ``needs`` of them; None where a single one does not fit."""
    return next((parts for parts in divisors(batch) if parts >= least and needs(batch // parts) <= limit), None)


def swift_parts(batch: int, step: float, workers: int) -> int:
    """The most equal parts of ``batch`` examples, in all ``step`` FLOPs, that ``workers`` of a processor compute about as fast as
    the whole."""
    return max((n for n in divisors(batch) if batch // n % workers == 0 and step / n / workers >= _ENOUGH), default=1)


def language_needs(
    shape: Shape, dropout: float, runtime: Runtime, copies: float, recompute: bool = False
) -> Callable[[int], int]:
    """Bytes of a training step by the number of sequences computed at once, by arithmetic."""
    how = runtime.precision, copies, runtime.workers, recompute, runtime.kernels
    return lambda rows: train_memory(shape, rows, dropout, *how).total


@dataclass(frozen=True)
class NetworkNeeds:
    """Bytes of a training step that stay the same however many examples are computed at once, and those of each of them."""

    always: float
    each: float

    def __call__(self, rows: int) -> int:
        return int(self.always + self.each * rows)


def network_needs(model: Any, batch: Batch, copies: float) -> NetworkNeeds:
    """The same of any network: program, weights, gradients, ``copies`` numbers of each weight for the optimiser, and what
    the backward pass needs of the forward pass, by what grows from two examples to ``batch``. The model is as it was."""
    few = min(2, batch.size)  # a batch norm refuses one
    less, more = (_kept_bytes(model, part) for part in (batch.take(torch.arange(few)), batch))
    largest = max(set(more) - set(less), default=0)
    each = max(0, sum(more) - sum(less)) / max(1, batch.size - few)
    each += min(_PASSING * largest / batch.size, _MOST * each)
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    always = PROGRAM + _FLOAT * (weights + (1 + copies) * trained) + max(0, sum(less) - int(few * each))
    return NetworkNeeds(always, each)


def _kept_bytes(model: Any, batch: Batch) -> list[int]:
    """Size of each tensor that the backward pass needs of a forward pass, weights left out."""
    fixed = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        if tensor.untyped_storage().data_ptr() not in fixed:
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    states = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model.train()
    with torch.random.fork_rng(devices=[]), noted(keep):
        model.loss(batch)
    for name, tensor in model.named_buffers():  # what batch norms count
        tensor.copy_(states[name])
    return [tensor.untyped_storage().nbytes() for tensor in saved.values()]
