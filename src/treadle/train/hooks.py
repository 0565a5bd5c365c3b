"""Who watches a run: the progress line, the history file, TensorBoard. They change nothing of it."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_text_pb2 import TextPluginData
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.proto.types_pb2 import DT_STRING

from treadle.core.progress import Task
from treadle.spec.units import format_count, significant

_SHOW_EVERY = 0.1  # seconds of training between two changes of the progress line
_WRITE_EVERY = 0.5  # seconds of training that another process waits for lines of the history, at most
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
    noise_scale: float | None = None
    """In examples; None where it is not known."""
    loss_scale: float | None = None
    """Of the next step in fp16; None in other precisions. Where gradients overflowed, ``gradient_norm`` is 0: nothing changed."""


class Hook(Protocol):
    def on_step(self, figures: Step) -> None: ...

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        """``trained``: of examples that are trained on, measured alike. The model is as it would be kept."""
        ...


class ProgressHook:
    """The line on the terminal: how far, how fast, what share of the machine's matrix peak, how well, and where the time goes."""

    def __init__(self, task: Task, flops: float, peak: float, unit: str = "tokens") -> None:
        """``flops`` of one ``unit``, forward and backward; ``peak`` FLOP/s."""
        self.task, self.flops, self.peak, self.unit = task, flops, peak, unit
        self.validation = ""
        self._shown = -math.inf
        self._spent: dict[str, float] = {}

    def on_step(self, figures: Step) -> None:
        for name, seconds in figures.spent.items():
            self._spent[name] = self._spent.get(name, 0.0) + seconds
        if figures.seconds - self._shown < _SHOW_EVERY and figures.progress < 1.0:
            return
        self._shown = figures.seconds
        speed = figures.tokens_per_second * self.flops
        parts = [
            f"{format_count(round(figures.tokens_per_second))} {self.unit}/s",
            f"{format_count(significant(speed / 1e9, 3))} GFLOP/s ({speed / self.peak:.0%} of peak)",
            f"loss {figures.loss:.3f}{self.validation}", largest_shares(self._spent),
        ]
        self._spent.clear()
        self.task.at(figures.progress, ", ".join(part for part in parts if part))

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.validation = f", validation {loss:.3f}"


def largest_shares(spent: Mapping[str, float], count: int = 2) -> str:
    """``backward 62% forward 31%``: what most of the seconds went into."""
    total = sum(spent.values())
    largest = sorted(spent.items(), key=lambda pair: -pair[1])[:count]
    return " ".join(f"{name} {seconds / total:.0%}" for name, seconds in largest) if total > 0 else ""


class HistoryHook:
    """history.jsonl: one line per step and per validation."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self.path = path
        self.stream = path.open("a", encoding="utf-8")
        self.cut(keep_bytes)

    def cut(self, keep_bytes: int) -> None:
        """Take back what stands behind the first ``keep_bytes``."""
        self.stream.close()
        os.truncate(self.path, keep_bytes)
        self.stream = self.path.open("a", encoding="utf-8")
        self._flushed = -math.inf

    def on_step(self, figures: Step) -> None:
        also = {} if figures.noise_scale is None else {"noise_scale": round(figures.noise_scale, 1)}
        also |= {} if figures.loss_scale is None else {"loss_scale": figures.loss_scale}
        self._write(
            step=figures.step, tokens=figures.tokens, seconds=round(figures.seconds, 3), loss=figures.loss,
            learning_rate=figures.learning_rate, gradient_norm=figures.gradient_norm,
            tokens_per_second=round(figures.tokens_per_second, 1), **also,
        )
        if figures.seconds - self._flushed >= _WRITE_EVERY:
            self._flushed = figures.seconds
            self.stream.flush()

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        also = {} if trained is None else {"train_loss_eval": trained}
        self._write(step=figures.step, tokens=figures.tokens, seconds=round(figures.seconds, 3), validation_loss=loss, **also)
        self.stream.flush()

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


class Thinning:
    """Which steps are passed on to a board: at most ``_POINTS`` of a run, evenly, which is what boards draw of a curve."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, figures: Step) -> bool:
        point = int(figures.progress * _POINTS)
        new, self._last = point != self._last, point
        return new


class TensorBoardHook:
    """Event files for ``tensorboard --logdir``: as many steps as it draws, and every validation; history.jsonl holds all steps.

    The events are written here and now: the thread that tensorboardX's own writer keeps takes the interpreter from a small model's
    steps, which then last up to twice as long.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"), f".{step}")
        self._wanted = Thinning()
        self._last = math.inf if step else 0
        self.step = step
        """The last one that was seen."""

    def on_step(self, figures: Step) -> None:
        if figures.step <= self._last:  # what was written of this and later steps is done again
            self._write(Event(step=figures.step, session_log=SessionLog(status=SessionLog.START)))
        self._last = self.step = figures.step
        if self._wanted(figures):
            self._values(figures.step, step_figures(figures))

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self._values(figures.step, validation_figures(loss, trained))
        self.writer.flush()

    def text(self, name: str, text: str, step: int) -> None:
        """``text`` as it stands: TensorBoard reads Markdown, of which an indented block is left alone."""
        plugin = SummaryMetadata.PluginData(plugin_name="text", content=TextPluginData(version=0).SerializeToString())
        block = "\n".join(f"    {line}" for line in text.splitlines() or [""])
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[block.encode("utf-8", "replace")], tensor_shape=shape)
        value = Summary.Value(tag=f"{name}/text_summary", metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def image(self, name: str, image: Image.Image, step: int) -> None:
        stream = io.BytesIO()
        image.save(stream, "PNG", optimize=True)
        made = Summary.Image(
            height=image.height, width=image.width, colorspace=len(image.getbands()), encoded_image_string=stream.getvalue()
        )
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=made)])))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _values(self, step: int, values: Mapping[str, float]) -> None:
        made = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=made)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.writer.write_event(event)


def step_figures(figures: Step) -> dict[str, float]:
    """A step as boards take it: name, after a group's, -> number."""
    names = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
    found = {f"train/{name}": float(getattr(figures, name)) for name in names}
    found |= {} if figures.noise_scale is None else {"train/noise_scale": figures.noise_scale}
    found |= {} if figures.loss_scale is None else {"train/loss_scale": figures.loss_scale}
    return found | {f"seconds/{name}": seconds for name, seconds in figures.spent.items()}


def validation_figures(loss: float, trained: float | None) -> dict[str, float]:
    """The same of a validation."""
    return {"validation/loss": loss} | ({} if trained is None else {"train/loss_eval": trained})
