"""The gradients of several workers, added up parameter by parameter in the workers' order: the large ones as they come."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

LARGE = 2**16
"""Numbers of a gradient from which on it is worth being told when it is there."""


@dataclass
class _Place:
    """One parameter, and its copies at the other workers."""

    copies: Sequence[nn.Parameter]
    """The model's own first."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    complete: set[int] = field(default_factory=set)
    """Workers whose gradient is complete."""
    added: int = 0
    """Workers whose gradients the first one's holds."""
    norms: dict[int, Tensor] = field(default_factory=dict)
    """Of the workers' gradients, where they are measured."""


class Sums:
    """Adds the gradients of a model's copies up, into the first of them.

    A large gradient goes into the sum as soon as it is complete and those of the workers before it are in, so that it does not wait
    for the end of the pass with all the others; who is first makes no difference to the sum.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.places = [_Place(copies) for copies in zip(*(model.parameters() for model in models), strict=True)]
        self._alone, self._measured = len(models) == 1, False
        self._handles = [
            copy.register_post_accumulate_grad_hook(partial(self._complete, place, worker))  # type: ignore[no-untyped-call]
            for place in self.places if not self._alone and place.copies[0].numel() >= LARGE
            for worker, copy in enumerate(place.copies)
        ]

    def begin(self, measured: bool) -> None:
        """Before the workers' passes. ``measured``: ``mean_square`` will be asked; then there are no gradients yet."""
        self._measured = measured
        if self._alone and not measured:
            return
        for place in self.places:
            place.complete.clear()
            place.norms.clear()
            place.added = 0

    def finish(self) -> None:
        """After all workers' passes: add what is not yet in."""
        if self._alone and not self._measured:
            return
        with torch.no_grad():
            for place in self.places:
                for worker, copy in enumerate(place.copies):
                    self._complete(place, worker)
                    _add(place.copies[0], copy)  # of a pass that came by more than once

    @torch.no_grad()
    def mean_square(self, shares: Sequence[float]) -> float | None:
        """Mean over the workers of the squared norms of their gradients, each multiplied by its share before; None where one had no
        gradient."""
        found: list[float] = []
        for worker, share in enumerate(shares):
            norms = [place.norms[worker] for place in self.places if worker in place.norms]
            if not norms or not share:
                return None
            found.append(float(torch.stack(norms).double().square().sum()) / share**2)
        return statistics.fmean(found)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _complete(self, place: _Place, worker: int, *_: Tensor) -> None:
        """A worker has the gradient that it will have."""
        with place.lock:
            if worker in place.complete:
                return
            place.complete.add(worker)
            gradient = place.copies[worker].grad
            if self._measured and gradient is not None:
                place.norms[worker] = gradient.norm()
            while place.added in place.complete:
                _add(place.copies[0], place.copies[place.added])
                place.added += 1


def _add(own: nn.Parameter, copy: nn.Parameter) -> None:
    if copy is own or copy.grad is None:
        return
    if own.grad is None:
        own.grad = copy.grad
    else:
        own.grad += copy.grad
    copy.grad = None
