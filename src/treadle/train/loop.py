"""The one training loop. Methods differ by objective, batches and hooks; data order follows from the step alone."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file

from treadle.core.batch import Batch
from treadle.core.errors import Interrupted, UserError, WorkError
from treadle.core.gradients import Gradients, Objective
from treadle.core.machine import way_in_words
from treadle.core.progress import say
from treadle.core.runtime import Runtime
from treadle.data.loader import Examples
from treadle.optim.average import WeightAverage
from treadle.optim.make import make_optimizer
from treadle.optim.schedule import rate
from treadle.spec.train import Train
from treadle.spec.units import Budget
from treadle.train.ahead import Ahead, Batches
from treadle.train.checkpoint import BEST, Checkpoints, Position, Remembering, load_checkpoint, save_weights
from treadle.train.going_on import Base
from treadle.train.hooks import HistoryHook, Hook, Step
from treadle.train.watch import Diverged


class Trainable(Protocol):
    """A ``torch.nn.Module`` that says how far off it is."""

    training: bool

    def loss(self, batch: Batch) -> torch.Tensor:
        """A mean over ``terms``."""
        ...

    def terms(self, batch: Batch) -> int: ...


@dataclass(frozen=True)
class Horizon:
    """When the run ends: after ``steps``, or after ``seconds`` of training time; one of them is None."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, budget: Budget, tokens_per_step: int, tokens_per_epoch: int) -> Horizon:
        if budget.unit == "seconds":
            return cls(None, budget.amount)
        per_step = {"steps": 1.0, "tokens": tokens_per_step, "epochs": tokens_per_step / max(tokens_per_epoch, 1)}[budget.unit]
        return cls(max(1, math.ceil(budget.amount / per_step)), None)

    def progress(self, position: Position) -> float:
        """Share of the run that is done, 0 to 1 and, by the last step's length, beyond."""
        if self.steps is not None:
            return position.step / self.steps
        assert self.seconds is not None
        return position.seconds / self.seconds

    def rate(self, position: Position, peak: float, settings: Train) -> float:
        """Of the step after ``position``."""
        if isinstance(settings.warmup, Budget):
            if position.step < settings.warmup.amount:  # whatever the budget
                return peak * (position.step + 0.5) / settings.warmup.amount
            warmup = min(1.0, settings.warmup.amount / self.steps) if self.steps else 0.0
        else:
            warmup = settings.warmup
        progress = self.progress(position)
        # Half a step on, so that neither the first nor the last step is spent at rate zero.
        ahead = progress + 0.5 * (1 / self.steps if self.steps else progress / max(position.step, 1))
        return rate(ahead, peak, warmup, settings.final_rate, settings.schedule, position.falls)

    def same_rates(self, other: Horizon, count: int, peak: float, settings: Train) -> bool:
        """Whether both go through the same first ``count`` steps."""
        if self.steps is None or other.steps is None or count > min(self.steps, other.steps):
            return False
        places = (Position(step) for step in range(count))
        return all(self.rate(place, peak, settings) == other.rate(place, peak, settings) for place in places)

    def branch(self, settings: Train) -> int | None:
        """The step before which a longer run is the same, where that is within the run: the end of ``stable``'s peak."""
        stable = settings.schedule.stable
        return int((1 - stable.fall) * self.steps) if stable and self.steps else None


@dataclass
class Loop:
    """A run: ``resume`` where it stood, then ``run`` to the end of the horizon."""

    model: Any
    """A ``Trainable`` module."""
    objective: Objective
    batches: Batches
    validate: Callable[[Any], float]
    horizon: Horizon
    settings: Train
    batch: int
    learning_rate: float
    runtime: Runtime
    workspace: Path
    unit: str = "tokens"
    """What the run counts: ``tokens``, padding included, or ``records``."""
    validate_train: Callable[[Any], float] | None = None
    """The same measure as ``validate``, of examples that are trained on."""

    def resume(self, base: Base | None = None) -> Position:
        """Make the optimiser, and go back to the newest whole checkpoint; where there is none, to ``base``. Raises ``UserError``
        where the budget is used up there already, or its weights are not this model's."""
        state = self._make_optimizer()
        self.checkpoints = Checkpoints(self.workspace, self.settings, self.horizon.branch(self.settings))
        found = load_checkpoint(self.workspace, self.model, state)
        self.position = found or (self._begin_at(base) if base else Position())
        if found is None:
            self.checkpoints.begin(self.model, self._remembering(), self.position)
        if self.position.computed_on(**self.runtime.way):
            what = f"the first {self.position.step} steps were computed on {way_in_words(self.position.computed[-2])}"
            say(f"{what}: the result is the same but for rounding")
        self.ahead = Ahead(self.batches)
        self.gradients = Gradients(self.model, self.objective, self.runtime, self.settings)
        self.history = HistoryHook(self.workspace / "history.jsonl", self.position.history_bytes)
        return self.position

    def close(self) -> None:
        """Let files and threads go."""
        self.checkpoints.close()
        self.history.close()
        self.gradients.close()
        self.ahead.close()

    def run(self, hooks: Sequence[Hook]) -> Position:
        """Train to the end. Raises ``Interrupted`` after Ctrl-C or SIGTERM, with a checkpoint of the last step written."""
        watchers: list[Hook] = [self.history, *hooks]
        start, before = time.perf_counter(), self.position.seconds
        with _interruptions() as stop:
            while not stop and self.horizon.progress(self.position) < 1.0 and not self._out_of_patience():
                try:
                    figures = self._step(start, before)
                except Diverged as trouble:
                    self._turn_back(trouble)
                    continue
                told = time.perf_counter()
                for hook in watchers:
                    hook.on_step(figures)
                self._spend("boards", time.perf_counter() - told)
                if self._validation_due():
                    self._validate(figures, watchers)
                    self.position.seconds = before + time.perf_counter() - start
                if self.checkpoints.due(self.position):
                    self.save(wait=False)
            self.save()
            if stop:
                cure = "run the same command again: it goes on from here"
                raise Interrupted(f"stopped at step {self.position.step}; a checkpoint is written", cure=cure)
        if self.settings.patience:
            self.model.load_state_dict(load_file(self.workspace / BEST))
        else:
            for tensor, final in self._final():
                tensor.copy_(final)
        return self.position

    def _make_optimizer(self) -> list[Remembering]:
        s = self.settings
        scales = self.model.layer_scales(s.layer_decay) if s.layer_decay < 1 else {}
        self.optimizer = make_optimizer(self.model.named_parameters(), s, self.learning_rate, scales)
        self.average = WeightAverage(self.model.state_dict().items(), s.average) if s.average else None
        return self._remembering()

    def _begin_at(self, base: Base) -> Position:
        position = base.begin(self.model, self._make_optimizer, self.workspace)
        every, progress = self.settings.validate_every, self.horizon.progress(position)
        if progress >= 1.0:
            raise UserError(f"the budget is used up at step {position.step} of {base.model.id}", cure="raise train.budget")
        position.validations = int(progress / every + 1e-9) if every else 0
        return position

    def _remembering(self) -> list[Remembering]:
        """All that goes from step to step beside the weights."""
        return [self.optimizer, self.average] if self.average else [self.optimizer]

    def _final(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weights that are for use in another state than they are trained in, and that state."""
        return self.average.final() if self.average else self.optimizer.final()

    @contextlib.contextmanager
    def _for_use(self) -> Iterator[None]:
        """In it, the model is as it would be kept; after it, as it is trained."""
        final = self._final()
        with torch.no_grad():
            trained = [tensor.detach().clone() for tensor, _ in final]
            for tensor, value in final:
                tensor.copy_(value)
            try:
                yield
            finally:
                for (tensor, _), value in zip(final, trained, strict=True):
                    tensor.copy_(value)

    def _out_of_patience(self) -> bool:
        return bool(self.settings.patience) and self.position.worse >= (self.settings.patience or 0)

    def save(self, wait: bool = True) -> None:
        """Take a checkpoint, and unless ``wait`` is False, come back when it is on disk."""
        begun = time.perf_counter()
        self.position.history_bytes = self.history.size()
        self.checkpoints.take(self.model, self._remembering(), self.position, self.history.sync)
        if wait:
            self.checkpoints.wait()
        self._spend("checkpoints", time.perf_counter() - begun)

    def _spend(self, what: str, seconds: float) -> None:
        self.position.spent[what] = self.position.spent.get(what, 0.0) + seconds

    def _step(self, start: float, before: float) -> Step:
        position, settings = self.position, self.settings
        begun = time.perf_counter()
        learning_rate = self.horizon.rate(position, self.learning_rate, settings) * position.watch.rate(position.step)
        for group in self.optimizer.param_groups:
            group.lr = learning_rate * group.lr_scale
        batch = self.ahead.batch_at(position.step + position.watch.offset(position.step), self.batch).to(self.runtime.device)
        given = time.perf_counter()
        found = self.gradients(batch, position.scaling.value if self.runtime.scales_loss else 1.0)
        loss, computed = found.loss, time.perf_counter()
        norm = self.optimizer.update(settings.clip or None) if math.isfinite(loss) else math.nan
        left_out = not (math.isfinite(loss) and math.isfinite(norm))
        if left_out:
            self._leave_out(batch, loss, norm)
            norm = 0.0
        elif self.runtime.scales_loss:
            position.scaling.went_well()
        position.watch.see(loss, position.step + 1)
        if found.square is not None and not left_out:
            position.noise.update(found.square, batch.size // found.parts, norm**2, batch.size)
        position.step += 1
        if self.average:
            self.average.update(self.horizon.progress(position))
        now = time.perf_counter()
        parts = {"data": given - begun, "forward": found.forward, "backward": found.backward, "optimizer": now - computed}
        for name, seconds in parts.items():
            self._spend(name, seconds)
        count = batch.positions if self.unit == "tokens" else batch.size
        position.tokens += count
        position.seconds = before + now - start
        position.loss = loss
        return Step(
            position.step, position.tokens, position.seconds, loss, learning_rate, norm, count / (now - begun),
            min(1.0, self.horizon.progress(position)), parts, position.noise.value,
            position.scaling.value if self.runtime.scales_loss else None,
        )

    def _leave_out(self, batch: Batch, loss: float, norm: float) -> None:
        """Let a step's gradients go that overflowed in fp16, and lower the loss scale. Raises ``Diverged`` where it is not that."""
        position, data = self.position, batch.infinite
        words = f"at step {position.step + 1} the loss is {loss:.4g} and the gradient's norm {norm:.4g}"
        if data or not (self.runtime.scales_loss and math.isfinite(loss) and position.scaling.overflowed()):
            raise Diverged(words + ", of a batch that holds infinities" * data, finite=False, data=data)
        say(f"{words} in fp16: its weights stay as they are, and the loss scale is now {position.scaling.value:g}")
        self.model.zero_grad(set_to_none=True)

    def _turn_back(self, trouble: Diverged) -> None:
        """Go on from a step before the trouble, with later batches: from a checkpoint that is early enough, or from the start."""
        position = self.position
        back = position.watch.turn_back(position.step, trouble, position.validated if self.settings.patience else 0)
        say(back.words)
        self.model.zero_grad(set_to_none=True)
        self.checkpoints.wait()
        found = load_checkpoint(self.workspace, self.model, self._remembering(), back.to)
        if found is None:
            raise WorkError(f"{back.words}, of which no checkpoint is left", cure="run again: it begins anew") from trouble
        found.computed_on(**self.runtime.way)
        found.watch.returns, found.seconds, found.spent = position.watch.returns, position.seconds, position.spent
        self.position = found
        self.history.cut(found.history_bytes)

    def _validation_due(self) -> bool:
        progress = self.horizon.progress(self.position)
        due = (self.position.validations + 1) * self.settings.validate_every - 1e-9  # 3 x 0.1 is more than 0.3
        return progress >= 1.0 or (self.settings.validate_every > 0 and progress >= due)

    def _validate(self, figures: Step, watchers: Sequence[Hook]) -> None:
        """Watchers see the model as it would be kept."""
        begun = time.perf_counter()
        with self._for_use():
            loss = self.validate(self.model)
            trained = self.validate_train(self.model) if self.validate_train else None
            self._compare(loss)
            every = self.settings.validate_every
            self.position.validations = int(figures.progress / every + 1e-9) if every else 0
            self.position.validation_loss, self.position.train_loss_eval = loss, trained
            self.position.validated = self.position.step
            for hook in watchers:
                hook.on_validation(figures, loss, trained)
        self._spend("validation", time.perf_counter() - begun)

    def _compare(self, loss: float) -> None:
        """Count how often in a row the lowest validation loss was not reached; keep its weights, or lower the rate, as asked."""
        position, plateau = self.position, self.settings.schedule.plateau
        if position.best is None or loss < position.best:
            position.best, position.best_step, position.worse, position.flat = loss, position.step, 0, 0
            if self.settings.patience:
                save_weights(self.model, self.workspace / BEST)
            return
        position.worse += 1
        position.flat += 1
        if plateau and position.flat >= plateau.patience:
            position.falls, position.flat = position.falls + 1, 0


def mean_loss(model: Any, held_out: Examples, batch: int, rows: int, runtime: Runtime) -> float:
    """Mean loss, such as nats per predicted token, over the first ``rows`` examples, each read once."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode(), runtime.autocast():
        for first in range(0, rows, batch):
            part = held_out.rows(np.arange(first, min(first + batch, rows))).to(runtime.device)
            targets = model.terms(part)
            total += float(model.loss(part)) * targets
            count += targets
    return total / max(count, 1)


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """A list that becomes non-empty on SIGINT or SIGTERM, so that the step in hand is finished and saved first."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:  # asked twice: at once, from the last checkpoint
            raise KeyboardInterrupt
        seen.append(number)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller has the signals
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
