"""Who watches a run: the progress line, the history file, TensorBoard. They change nothing of it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from treadle.core.progress import Task
from treadle.spec.units import format_count

_SHOW_EVERY = 0.1  # seconds of training between two changes of the progress line
_POINTS = 1000


@dataclass(frozen=True)
class Step:
    """The figures of one finished step."""

    step: int
    tokens: int
    seconds: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    progress: float
    """Share of the budget that is used, 0 to 1."""
    spent: Mapping[str, float]
    """Seconds of it by what they went into: data, forward, backward, optimizer."""


class Hook(Protocol):
    def on_step(self, figures: Step) -> None: ...

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        """``trained``: of examples that are trained on, measured alike."""
        ...


class ProgressHook:
    """The line on the terminal: how far, how fast, what share of the machine's matrix peak, and how well."""

    def __init__(self, task: Task, flops: float, peak: float, unit: str = "tokens") -> None:
        """``flops`` of one ``unit``, forward and backward; ``peak`` FLOP/s."""
        self.task, self.flops, self.peak, self.unit = task, flops, peak, unit
        self.validation = ""
        self._shown = -math.inf

    def on_step(self, figures: Step) -> None:
        if figures.seconds - self._shown < _SHOW_EVERY and figures.progress < 1.0:
            return
        self._shown = figures.seconds
        share = figures.tokens_per_second * self.flops / self.peak
        speed = f"{format_count(round(figures.tokens_per_second))} {self.unit}/s, {share:.0%} of the matrix peak"
        self.task.at(figures.progress, f"{speed}, step {figures.step}, loss {figures.loss:.3f}{self.validation}")

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.validation = f", validation {loss:.3f}"


class HistoryHook:
    """history.jsonl: one line per step and per validation."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        path.touch()
        os.truncate(path, keep_bytes)
        self.stream = path.open("a", encoding="utf-8")

    def on_step(self, figures: Step) -> None:
        self._write(
            step=figures.step, tokens=figures.tokens, seconds=round(figures.seconds, 3), loss=figures.loss,
            learning_rate=figures.learning_rate, gradient_norm=figures.gradient_norm,
            tokens_per_second=round(figures.tokens_per_second, 1),
        )

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        also = {} if trained is None else {"train_loss_eval": trained}
        self._write(step=figures.step, tokens=figures.tokens, seconds=round(figures.seconds, 3), validation_loss=loss, **also)

    def size(self) -> int:
        """Bytes written so far."""
        self.stream.flush()
        return self.stream.tell()

    def sync(self) -> None:
        """Come back when they are on disk."""
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        self.stream.close()

    def _write(self, **figures: float) -> None:
        self.stream.write(json.dumps(figures) + "\n")


class TensorBoardHook:
    """Event files for ``tensorboard --logdir``: at most ``_POINTS`` steps of a run, evenly, which is what TensorBoard draws of a
    curve, and every validation. history.jsonl holds all steps.

    The events are written here and now: the thread that tensorboardX's own writer keeps takes the interpreter from a small model's
    steps, which then last up to twice as long.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"), f".{step}")
        if step:  # what an interrupted process wrote of later steps is done again
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._written = -1

    def on_step(self, figures: Step) -> None:
        point = int(figures.progress * _POINTS)
        if point == self._written:
            return
        self._written = point
        names = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
        values = [Summary.Value(tag=f"train/{name}", simple_value=getattr(figures, name)) for name in names]
        self._write(Event(step=figures.step, summary=Summary(value=values)))

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        values = [Summary.Value(tag="validation/loss", simple_value=loss)]
        if trained is not None:
            values.append(Summary.Value(tag="train/loss_eval", simple_value=trained))
        self._write(Event(step=figures.step, summary=Summary(value=values)))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.writer.write_event(event)
