"""What training a network will take on this machine: its own steps are timed on its own data, and what was measured is kept."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from treadle.core.errors import UserError
from treadle.core.machine import free_memory, peak_memory
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.core.runtime import Runtime
from treadle.data.loader import Examples
from treadle.model.network import Network
from treadle.plan.pace import step_seconds
from treadle.plan.show import chosen_lines, money, table
from treadle.plan.times import machine
from treadle.spec.units import format_count, format_duration, format_size, significant
from treadle.store.kept import Kept

_SECONDS = 5.0  # spent on timing, at most
_STEPS = 30
_WARM = 3
_FILE = "steps.json"
_KEPT = 32


@dataclass(frozen=True)
class Training:
    """What is to be timed: a network, with fresh weights that are thrown away, on its own examples."""

    model: Network
    batches: Examples
    held_out: Examples
    validated: int
    """Examples that are measured at each validation, those of the train part among them."""
    per_epoch: int
    """Records, or tokens of running text, in one pass over the train part."""
    flops: float
    """Of one of them, forward and backward."""
    identity: Mapping[str, Any]
    """All that the time of a step follows from but the machine."""
    runtime: Runtime


@dataclass(frozen=True)
class Measure:
    """Seconds of a training step and of a batch of validation, and the process's largest size while they were taken."""

    step: float
    validation: float
    memory: int


@dataclass(frozen=True)
class RecordsPlan:
    """What training a network takes. ``fits`` False: ``verdict`` says why and ``cure`` what to change."""

    name: str
    parameters: int
    unit: str
    """``records``, or ``tokens`` of running text."""
    units: int
    """In one pass over the train part."""
    batch: int
    """Rows of a step."""
    steps: int
    epochs: float
    flops: float
    """Of the whole training."""
    step_seconds: float
    seconds: float
    """Of the whole training, validations included; of ``patience``, the most."""
    memory: int
    """Largest size of the process while its steps were timed (bytes)."""
    memory_limit: int
    energy: float
    """kWh."""
    money: float
    currency: str
    budget: str
    derived: tuple[Mapping[str, Any], ...]

    @property
    def fits(self) -> bool:
        return self.memory <= self.memory_limit

    @property
    def verdict(self) -> str:
        what = f"{format_size(self.memory)} of {format_size(self.memory_limit)} memory"
        return f"fits: {what}" if self.fits else f"will not fit: {what}"

    @property
    def cure(self) -> str:
        return "" if self.fits else "lower train.batch, or make the trunk smaller"

    @property
    def _rows(self) -> str:
        return "records" if self.unit == "records" else "stretches of text"

    def check(self) -> None:
        """Raises ``UserError`` where the run will not fit."""
        if not self.fits:
            raise UserError(self.verdict, cure=self.cure)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; ``plan.estimate.compare`` takes it."""
        seconds = significant(self.seconds)
        return {
            "kind": self.unit, "name": self.name, "parameters": self.parameters, self.unit: self.units, "batch": self.batch,
            "steps": self.steps, "epochs": significant(self.epochs), "flops": significant(self.flops), "fits": self.fits,
            "step_seconds": significant(self.step_seconds), "verdict": self.verdict, "cure": self.cure, "budget": self.budget,
            "seconds": seconds, "stages": [{"stage": "train", "seconds": seconds, "raw": seconds}], "peak_memory": self.memory,
            "memory_limit": self.memory_limit, "energy_kwh": significant(self.energy), "money": significant(self.money),
            "currency": self.currency, "machine": machine(), "derived": [dict(d) for d in self.derived],
        }

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            ["parameters", format_count(self.parameters), ""],
            [self.unit, format_count(self.units), f"to train on, {self.batch} {self._rows} a step"],
            ["budget", self.budget, f"{format_count(self.steps)} steps, {self.epochs:.3g} passes over the {self.unit}"],
            ["FLOPs", f"{self.flops:.2g}", ""],
            ["time", format_duration(self.seconds), f"of training; {self.step_seconds * 1000:.2g} ms a step, measured here"],
            ["memory", format_size(self.memory), f"of {format_size(self.memory_limit)}, measured over those steps"],
            ["energy", f"{self.energy * 1000:.3g} Wh", ""],
            ["money", f"{money(self.money)} {self.currency}", ""],
        ]
        return [f"{self.name}: {self.verdict}", "", *table(rows), *chosen_lines(self.derived)]


def plan_records(project: Project, folder: Path, training: Training) -> RecordsPlan:
    """Time a few steps, at most 5 s, or take what was measured before from ``folder``."""
    spec, resolved = project.spec, project.resolved
    found = _kept(training, folder, training.runtime, project)
    batch, budget, step = resolved.batch, resolved.budget, found.step
    units = batch * training.held_out.per_row
    validation = found.validation * math.ceil(training.validated / batch)
    count = math.ceil(1 / spec.train.validate_every) if spec.train.validate_every else 1
    if budget.unit == "seconds":
        steps = max(1, int((budget.amount - validation * (count - 1)) / step))
    else:
        per_step = {"steps": 1.0, "tokens": units, "epochs": units / training.per_epoch}[budget.unit]
        steps = max(1, math.ceil(budget.amount / per_step))
    seconds = budget.amount + validation if budget.unit == "seconds" else steps * step + validation * count
    energy, price = spec.plan.cost(seconds)
    limit = spec.plan.memory if spec.plan.memory is not None else free_memory() + peak_memory()
    return RecordsPlan(
        spec.name, training.model.parameter_count, training.held_out.unit, training.per_epoch, batch, steps,
        steps * units / training.per_epoch, training.flops * units * steps, step, seconds, found.memory, limit, energy,
        price, spec.plan.currency, str(budget), tuple(d.as_dict() for d in resolved.reasons),
    )


def _kept(training: Training, folder: Path, runtime: Runtime, project: Project) -> Measure:
    """What was measured of this training on this machine, or is now. A file that cannot be read holds nothing else."""
    identity = [machine(), torch.__version__, *runtime.way.values(), dict(training.identity)]
    kept = Kept(folder / _FILE, _KEPT)
    known = kept.find(identity)
    if known and known.keys() == Measure.__dataclass_fields__.keys():
        say(f"the steps of this training were timed before (remove {kept.file} to time them again)")
        return Measure(**known)
    with torch.random.fork_rng(devices=[]):
        training.model.to(runtime.device)
        batch, network = project.resolved.batch, training.model
        step = step_seconds(
            network, type(network).loss, lambda number: training.batches.batch_at(number, batch), project.spec.train, runtime,
            warm=_WARM, steps=_STEPS, seconds=_SECONDS,
        )
        found = Measure(step, _validation_seconds(training, runtime, batch), peak_memory())
    kept.keep(identity, asdict(found))
    return found


@torch.inference_mode()
def _validation_seconds(training: Training, runtime: Runtime, batch: int) -> float:
    """Median seconds of a batch."""
    training.model.eval()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        with runtime.autocast():
            training.model.loss(training.held_out.batch_at(0, min(batch, training.validated)).to(runtime.device))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
