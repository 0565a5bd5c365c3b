"""How fast this machine is at this very model, measured within ten seconds and kept."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from treadle.core.batch import Batch
from treadle.core.gradients import Gradients
from treadle.core.machine import cores, processor, threads
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.core.runtime import Runtime, matrix_peak
from treadle.model.generate import generation_threads, make_memory
from treadle.model.memory import Part
from treadle.model.model import LanguageModel, make_model
from treadle.model.score import ROWS
from treadle.optim.make import make_optimizer
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.spec.units import format_duration
from treadle.store.artifacts import write_json

VERSION = 2
_FILE = "calibration.json"
_KEPT = 32
_SECONDS = 9.0
"""After so long nothing more is repeated: on a busy machine less is measured, and it still ends in time."""
_BUSY = 0.2
"""Share of the processor taken by others from which a calibration is told to be unsure, and is not kept."""
_SHARE = 0.35
"""Share of the matrix peak that a step is taken to reach, to choose how much of it to time; the result does not depend on it."""
_PART_SECONDS = 0.8
"""A step that would take longer than this is timed in part: fewer sequences, then fewer layers, then shorter ones."""


@dataclass(frozen=True)
class Calibration:
    """Measured seconds and rates of one machine, model, batch and precision."""

    matrix_peak: float
    """FLOP/s of a matrix product in the run's precision."""
    step_seconds: float
    """One training step: gradients of the whole batch, clipping, the optimiser."""
    forward_seconds: float
    """Per token, scoring text in float32."""
    generate_seconds: float
    """Per generated token, one stream."""
    timed: str
    """What was timed, where it was not the whole step."""
    precision: str
    threads: int
    at: str
    """When it was measured (UTC)."""
    took: float
    """Seconds that measuring took."""
    busy: float
    """Share of the threads' time that other programs took while it was measured."""
    cached: bool = False

    @property
    def unsure(self) -> bool:
        """Whether the machine was too busy for this to hold when it is idle."""
        return self.busy > _BUSY

    @property
    def age(self) -> float:
        """Seconds since it was measured."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds())


def calibrate(project: Project, runtime: Runtime, folder: Path) -> Calibration:
    """The calibration for ``project``, from ``folder``/calibration.json where it was measured before. The caller has made sure that
    a training step fits into memory."""
    spec, shape, batch = project.spec, project.resolved.language, project.resolved.batch
    trunk = spec.model.trunk.transformer
    assert trunk is not None
    identity = [
        VERSION, processor(), cores(), torch.__version__, *runtime.way.values(), shape.as_dict(), batch, spec.train.parts,
        trunk.dropout, spec.train.optimizer.model_dump(mode="json"), bool(spec.train.recompute),
    ]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    entries = _read(folder / _FILE)
    if key in entries:
        found = replace(Calibration(**entries[key]), cached=True)
        again = f"remove {folder / _FILE} to measure again"
        say(f"this machine was calibrated for this model {format_duration(found.age)} ago ({again})")
        return found
    found = _measure(shape, batch // spec.train.parts, spec.train, trunk.dropout, runtime)
    say(f"calibrated this machine in {format_duration(found.took)}")
    if found.unsure:
        return found
    entries[key] = asdict(found)
    newest = sorted(entries, key=lambda name: str(entries[name]["at"]))[-_KEPT:]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _FILE, {name: entries[name] for name in newest})
    return found


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What was measured before. A file that is damaged, or of another version, is measured anew: it holds nothing else."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        for entry in entries.values():
            datetime.fromisoformat(Calibration(**entry).at)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        say(f"{file} cannot be read; measuring again")
        return {}
    return dict(entries)


def _measure(shape: Shape, rows: int, train: Train, dropout: float, runtime: Runtime) -> Calibration:
    start, used = time.perf_counter(), time.process_time()
    end = start + _SECONDS
    peak = matrix_peak(runtime, seconds=0.7)
    got = (time.process_time() - used) / ((time.perf_counter() - start) * runtime.threads)
    busy = 0.0 if runtime.device.type == "cuda" else max(0.0, 1 - got)
    side = runtime.workers  # a row for each is the least
    timed, most = _affordable(shape, rows // side, peak / side)
    model = make_model(timed, 0, dropout).to(runtime.device)
    most = min(most, max(1, int(_PART_SECONDS / _one_row_seconds(model, runtime, train))))
    timed_rows = most * side
    gradients, update = _step_seconds(model, timed_rows, runtime, train, min(time.perf_counter() + 3.5, end - 3))
    share = rows * shape.context * shape.train_flops / (timed_rows * timed.context * timed.train_flops)
    step = gradients * share * train.parts + update * shape.parameters / timed.parameters
    model.eval().to("cpu")  # evaluation and generation run there, in float32
    torch.set_num_threads(threads())
    scored = min(ROWS, max(1, timed_rows * 3))
    forward = _forward_seconds(model, scored, end - 1) * shape.forward_flops() / timed.forward_flops()
    torch.set_num_threads(generation_threads(model))
    generate = _generate_seconds(model, end) * shape.parameters / timed.parameters
    torch.set_num_threads(runtime.threads)
    what = []
    if timed_rows < rows:
        what.append(f"{timed_rows} of {rows} sequences")
    if timed != shape:
        what.append(f"{timed.depth} of {shape.depth} layers, {timed.context} of {shape.context} tokens")
    return Calibration(
        peak, step, forward, generate, ", ".join(what), runtime.precision, runtime.threads,
        datetime.now(UTC).isoformat(timespec="seconds"), round(time.perf_counter() - start, 2), round(busy, 2),
    )


def _affordable(shape: Shape, rows: int, peak: float) -> tuple[Shape, int]:
    """What takes about ``_PART_SECONDS`` of a step: the shape, perhaps with fewer layers and a shorter context, and its rows."""
    tokens = _PART_SECONDS * _SHARE * peak / shape.train_flops
    if tokens >= shape.context:
        return shape, min(rows, int(tokens // shape.context))
    layers = max(1, min(shape.depth, int(shape.depth * tokens / shape.context)))
    fewer = Shape(**{**shape.as_dict(), "depth": layers})  # type: ignore[arg-type]
    tokens = _PART_SECONDS * _SHARE * peak / fewer.train_flops
    context = max(8, min(shape.context, int(tokens)))
    return Shape(**{**fewer.as_dict(), "context": context}), 1  # type: ignore[arg-type]


def _step_seconds(model: LanguageModel, rows: int, runtime: Runtime, train: Train, end: float) -> tuple[float, float]:
    """Median seconds of the gradients of ``rows`` sequences, and of clipping and updating."""
    everything = train.model_copy(update={"groups": {}})  # one may name a layer that is left out here
    optimizer = make_optimizer(model.named_parameters(), everything, 1e-4)
    gradients = _gradients(model, rows, runtime, train)

    def update() -> None:
        optimizer.update(1.0)

    times = [(_seconds(gradients), _seconds(update))]
    while len(times) < 12 and time.perf_counter() + sum(times[-1]) < end:
        times.append((_seconds(gradients), _seconds(update)))
    kept = times[1:] or times  # the first also allocates
    return statistics.median(g for g, _ in kept), statistics.median(u for _, u in kept)


def _one_row_seconds(model: LanguageModel, runtime: Runtime, train: Train) -> float:
    """Of the gradients of one sequence for each worker, cold: so a machine that is busy, or slower than its matrix peak says, is
    found out early."""
    found = _seconds(_gradients(model, runtime.workers, runtime, train))
    model.zero_grad(set_to_none=True)
    return found


def _gradients(model: LanguageModel, rows: int, runtime: Runtime, train: Train) -> Callable[[], None]:
    """The work of one forward and backward pass over ``rows`` sequences of made-up tokens."""
    tokens = _tokens(model, rows)
    batch = Batch({model.input: tokens}, {model.head: tokens}).to(runtime.device)
    gradients = Gradients(model, LanguageModel.loss, runtime, train.model_copy(update={"accumulate": 1}))

    def work() -> None:
        gradients(batch)

    return work


def _tokens(model: LanguageModel, rows: int) -> Tensor:
    return torch.randint(0, model.shape.vocabulary, (rows, model.shape.context), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _forward_seconds(model: LanguageModel, rows: int, end: float) -> float:
    """Per token, as documents are scored: logits, surprise, and the likeliest token."""
    tokens = _tokens(model, rows)

    def score() -> None:
        logits = model.logits(tokens).float()
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").sum().item()
        logits.argmax(-1).sum().item()

    return _median(score, min(time.perf_counter() + 1.8, end)) / tokens.numel()


@torch.inference_mode()
def _generate_seconds(model: LanguageModel, end: float) -> float:
    """Per token, one stream, from a short prompt."""
    memory, context = make_memory(model, 1), model.shape.context
    memory.admit(0, [0], context)

    def step() -> None:
        if memory.lengths[0] + 1 >= context:
            memory.release(0)
            memory.admit(0, [0], context)
        memory.read_parts(model, [Part(0, [0])]).argmax().item()

    memory.read_parts(model, [Part(0, [0] * min(4, context))])

    return _median(step, min(time.perf_counter() + 0.5, end))


def _median(work: Callable[[], None], end: float) -> float:
    """Median duration over as many repeats as end before ``end``; the first, which also allocates, counts only if it is alone."""
    times = [_seconds(work)]
    while time.perf_counter() + times[-1] < end:
        times.append(_seconds(work))
    return statistics.median(times[1:] or times)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
