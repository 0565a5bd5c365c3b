"""The watch over a run: it sees that a run has left its course, and says from which step and with which batches it goes on.

A loss or gradient that is not finite is trouble at once. So is a loss that for ``_RUN`` steps in a row lay above

    median + the largest of 10 x 1.4826 x MAD, a quarter of what was gained since the start, a tenth of the median

of the last ``_WINDOW`` losses before them; MAD is the median absolute deviation from that median. Neither moves when a few losses
are far off (Rousseeuw and Croux 1993), so a spike does not hide itself. The two other bounds are for curves without noise, and for
those that lost little. No run of the recipes comes near (docs/experiments.md).

What then happens is that of Chowdhery et al. 2022, section 5.1: back to a step before the trouble, and on without the batches that
led to it. Both follow from the losses alone, never from when checkpoints were written: a run goes back to any checkpoint that is
early enough, and comes by the same batches to the very step. So an interrupted run has the same end, bit for bit.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from treadle.core.errors import WorkError

FARTHEST = 256
"""Steps that a run goes back at most; but in the first ones, to its start."""
_BACK = (16, 64, FARTHEST)
"""Steps that it goes back the first, second and each later time in a row; one time later where a step was not finite."""
_TRIES = 5
"""Times in a row that it goes back; from the second on at half the rate."""
_CALM = 200
"""Steps after which trouble is no longer in a row with that before."""
_RUN = 8
_WINDOW = 64
_LEAST = 32
"""Losses that must be known."""
_EVERY = 8
"""Losses between two changes of the bound."""


@dataclass
class Return:
    """A way back that was taken."""

    at: int
    """Steps that were done when there was trouble."""
    to: int
    """Steps that were done where the run went on."""
    offset: int
    """From there on, the batch of step n is that of n + ``offset``."""
    rate: float
    """From there on, what the rate is multiplied by."""
    tries: int
    """How many returns in a row it ends."""
    words: str


class Diverged(Exception):
    """Trouble at a step; ``finite`` False: its update was not made; ``data``: because its batch holds infinities."""

    def __init__(self, words: str, *, finite: bool, data: bool = False) -> None:
        super().__init__(words)
        self.finite, self.data = finite, data


@dataclass
class Watch:
    """What is remembered of the losses so far, and of the ways back. JSON values: a checkpoint holds it."""

    recent: list[float] = field(default_factory=list)
    seen: int = 0
    start: float | None = None
    """Median of the first losses."""
    middle: float = 0.0
    """Median of the recent ones."""
    bound: float | None = None
    over: int = 0
    """Losses in a row that were above the bound."""
    returns: list[Return] = field(default_factory=list)

    @classmethod
    def load(cls, written: Mapping[str, Any]) -> Watch:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**{**written, "returns": [Return(**row) for row in written["returns"]]})

    def see(self, loss: float, step: int) -> None:
        """Take in the finite loss of a step, counted from 1. Raises ``Diverged`` where the run has left its course."""
        if self.bound is not None and loss > self.bound:
            self.over += 1
            if self.over < _RUN:
                return
            words = f"at step {step} the loss is {loss:.4g}, for {_RUN} steps above {self.bound:.4g}, after about {self.middle:.4g}"
            raise Diverged(words, finite=True)
        self.over = 0
        self.recent.append(loss)
        del self.recent[:-_WINDOW]
        self.seen += 1
        if self.seen >= _LEAST and self.seen % _EVERY == 0:
            self._settle()

    def _settle(self) -> None:
        self.middle = statistics.median(self.recent)
        self.start = self.middle if self.start is None else self.start
        spread = 1.4826 * statistics.median(abs(loss - self.middle) for loss in self.recent)
        self.bound = self.middle + max(10 * spread, 0.25 * (self.start - self.middle), 0.1 * abs(self.middle))

    def offset(self, step: int) -> int:
        """What is added to ``step``, counted from 0, when its batch is drawn."""
        return next((back.offset for back in reversed(self.returns) if back.to <= step), 0)

    def rate(self, step: int) -> float:
        """What the rate of ``step``, counted from 0, is multiplied by."""
        return next((back.rate for back in reversed(self.returns) if back.to <= step), 1.0)

    def turn_back(self, at: int, trouble: Diverged, floor: int = 0) -> Return:
        """Where to go back to from trouble in the step after ``at`` steps: never behind ``floor``. A single step that is not finite
        is only left out, and so is each batch that holds infinities. Raises ``WorkError`` where it has gone back often enough."""
        last = self.returns[-1] if self.returns else None
        tries = last.tries + 1 if last and at - last.at <= (0 if trouble.data else _CALM) else 1
        if tries > _TRIES:
            cure = "lower train.learning_rate, or look for values in the data that are far too large"
            raise WorkError(f"training diverges: {trouble}, after {_TRIES} attempts in a row to go on from before", cure=cure)
        back = (0, *_BACK)[0 if trouble.data else min(tries - (not trouble.finite), len(_BACK))]
        to = min(at, max(floor, at - back, 0))
        rate = self.rate(at) * (0.5 if tries > 1 and not trouble.data else 1.0)
        left_out = at + 1 - to
        words = f"{trouble}: went back to step {to}, skipped {left_out} batch{'es' * (left_out > 1)}"
        words += f", from there {rate:g} of the rate" if rate != 1 else ""
        found = Return(at, to, at + 1 + self.offset(at) - to, rate, tries, words)
        self.returns.append(found)
        return found
