"""From a batch to gradients: in parts to save memory, and on several cores side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from treadle.core.batch import Batch
from treadle.core.runtime import Runtime
from treadle.core.sums import Sums
from treadle.spec.train import Train

Objective = Callable[[Any, Batch], torch.Tensor]
"""What is minimised: a model and a batch give the loss of that batch."""


@dataclass
class Found:
    """What one part of a batch gave."""

    loss: float = 0.0
    """Weighted by the part's share of the batch."""
    forward: float = 0.0
    """Seconds."""
    backward: float = 0.0
    parts: int = 1
    square: float | None = None
    """Mean squared norm of the mean gradients of the parts that were computed first; None of a batch in one part."""


class Gradients:
    """Adds the gradients of a batch's loss to those of a model's parameters.

    Each of ``runtime.workers`` threads computes a part of the batch on one core, forward and backward, with the same weights and
    gradients of its own, which are added up in the order of the parts: the result is that of ``accumulate`` with as many
    parts, bit for bit. Cores that each work on a part need not wait for one another at every operation, as those that share one do.
    """

    def __init__(self, model: Any, objective: Objective, runtime: Runtime, settings: Train) -> None:
        self.model, self.objective, self.runtime, self.settings = model, objective, runtime, settings
        if settings.recompute:
            model.trunk.recompute = True
        self.models = [model, *(_twin(model) for _ in range(runtime.workers - 1))]
        self.sums = Sums(self.models)
        self.pool = ThreadPoolExecutor(runtime.workers - 1, "gradients", _single) if runtime.workers > 1 else None

    def __call__(self, batch: Batch, scale: float = 1.0) -> Found:
        """Of the batch's mean loss; each part is weighted by its share of what the loss is a mean of. On the way back all is
        multiplied by ``scale``, a power of two, and divided by it at the end."""
        for model in self.models:
            if not model.training:
                model.train()
        parts = batch.split(self.settings.parts * len(self.models))
        counts = [self.model.terms(part) for part in parts] if len(parts) > 1 else [1]
        shares = [count / max(sum(counts), 1) for count in counts]
        whole = Found(parts=len(parts))
        for first in range(0, len(parts), len(self.models)):
            chosen = slice(first, first + len(self.models))
            self._together(whole, parts[chosen], shares[chosen], scale, len(parts) > 1 and not first)
        if scale != 1.0:
            torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], 1 / scale)
        return whole

    def close(self) -> None:
        """Let the threads go."""
        self.sums.close()
        if self.pool:
            self.pool.shutdown()

    def _together(self, whole: Found, parts: list[Batch], shares: list[float], scale: float, measured: bool) -> None:
        """One part for each worker; ``measured``: their gradients are the first of several parts'."""
        threads = torch.get_num_threads()
        self.sums.begin(measured)
        if self.pool is None:
            found = [self._part(self.model, parts[0], shares[0], scale)]
        else:
            torch.set_num_threads(1)
            rest = zip(self.models[1:], parts[1:], shares[1:], strict=True)
            waiting = [self.pool.submit(self._part, *given, scale) for given in rest]
            try:
                found = [self._part(self.model, parts[0], shares[0], scale)]
            finally:
                others = [future.result() for future in waiting]
                torch.set_num_threads(threads)
            found += others
        self.sums.finish()
        if measured:
            whole.square = self.sums.mean_square([scale * share for share in shares])
        for part in found:
            whole.loss += part.loss
        whole.forward += found[0].forward
        whole.backward += found[0].backward

    def _part(self, model: Any, part: Batch, share: float, scale: float) -> Found:
        start = time.perf_counter()
        with self.runtime.autocast():
            loss = self.objective(model, part)
        loss = loss * share if share != 1.0 else loss
        found = Found(float(loss.detach()))
        if self.settings.l1:
            loss = loss + self.settings.l1 * _absolute(model) / (self.settings.parts * len(self.models))
        middle = time.perf_counter()
        torch.autograd.backward(loss.float() * scale if scale != 1.0 else loss)
        found.forward, found.backward = middle - start, time.perf_counter() - middle
        return found


def _single() -> None:
    """Operations of this thread are not shared out among further ones."""
    torch.set_num_threads(1)


def _twin(model: Any) -> Any:
    """A copy with the very same weights and gradients of its own."""
    shared = {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()} | {id(b): b for b in model.buffers()}
    return copy.deepcopy(model, shared)


def _absolute(model: Any) -> torch.Tensor:
    """The sum of all matrices' absolute values (Tibshirani 1996)."""
    return torch.stack([p.abs().sum() for p in model.parameters() if p.requires_grad and p.dim() >= 2]).sum()
