"""Who watches a run: the progress line, the history file, TensorBoard. They change nothing of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tensorboardX import SummaryWriter

from treadle.core.progress import Task
from treadle.spec.units import format_count


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


class Hook(Protocol):
    def on_step(self, figures: Step) -> None: ...

    def on_validation(self, figures: Step, loss: float) -> None: ...


class ProgressHook:
    """The line on the terminal: how far, how fast, what share of the machine's matrix peak, and how well."""

    def __init__(self, task: Task, flops: float, peak: float, unit: str = "tokens") -> None:
        """``flops`` of one ``unit``, forward and backward; ``peak`` FLOP/s."""
        self.task, self.flops, self.peak, self.unit = task, flops, peak, unit
        self.validation = ""

    def on_step(self, figures: Step) -> None:
        share = figures.tokens_per_second * self.flops / self.peak
        speed = f"{format_count(round(figures.tokens_per_second))} {self.unit}/s, {share:.0%} of the matrix peak"
        self.task.at(figures.progress, f"{speed}, step {figures.step}, loss {figures.loss:.3f}{self.validation}")

    def on_validation(self, figures: Step, loss: float) -> None:
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

    def on_validation(self, figures: Step, loss: float) -> None:
        self._write(step=figures.step, tokens=figures.tokens, seconds=round(figures.seconds, 3), validation_loss=loss)

    def size(self) -> int:
        """Bytes written so far, all of them on disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return self.stream.tell()

    def close(self) -> None:
        self.stream.close()

    def _write(self, **figures: float) -> None:
        self.stream.write(json.dumps(figures) + "\n")


class TensorBoardHook:
    """Event files for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, step: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def on_step(self, figures: Step) -> None:
        for name in ("loss", "learning_rate", "gradient_norm", "tokens_per_second"):
            self.writer.add_scalar(f"train/{name}", getattr(figures, name), figures.step)

    def on_validation(self, figures: Step, loss: float) -> None:
        self.writer.add_scalar("validation/loss", loss, figures.step)

    def close(self) -> None:
        self.writer.close()
