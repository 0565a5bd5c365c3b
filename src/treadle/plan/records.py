"""What training a model of records will take on this machine: its own steps are timed on its own data."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from treadle.core.errors import UserError
from treadle.core.machine import free_memory, peak_memory
from treadle.core.project import Project
from treadle.core.runtime import choose_runtime
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.network import Network, make_network
from treadle.optim.adamw import make_adamw
from treadle.plan.show import money, table
from treadle.plan.times import machine
from treadle.spec.units import format_count, format_duration, format_size, significant
from treadle.store.artifacts import Artifact

_SECONDS = 5.0  # spent on timing, at most
_STEPS = 30
_WARM = 3


@dataclass(frozen=True)
class RecordsPlan:
    """What training takes. ``fits`` False: ``verdict`` says why and ``cure`` what to change."""

    name: str
    parameters: int
    records: int
    batch: int
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
    derived: tuple[Mapping[str, str], ...]

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

    def check(self) -> None:
        """Raises ``UserError`` where the run will not fit."""
        if not self.fits:
            raise UserError(self.verdict, cure=self.cure)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; ``plan.estimate.compare`` takes it."""
        seconds = significant(self.seconds)
        return {
            "kind": "records", "name": self.name, "parameters": self.parameters, "records": self.records, "batch": self.batch,
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
            ["records", format_count(self.records), f"to train on, {self.batch} a step"],
            ["budget", self.budget, f"{format_count(self.steps)} steps, {self.epochs:.3g} passes over the records"],
            ["FLOPs", f"{self.flops:.2g}", ""],
            ["time", format_duration(self.seconds), f"of training; {self.step_seconds * 1000:.2g} ms a step, measured now"],
            ["memory", format_size(self.memory), f"of {format_size(self.memory_limit)}, measured over those steps"],
            ["energy", f"{self.energy * 1000:.3g} Wh", ""],
            ["money", f"{money(self.money)} {self.currency}", ""],
        ]
        return [f"{self.name}: {self.verdict}", "", *table(rows)]


def plan_records(project: Project, dataset: Artifact) -> RecordsPlan:
    """Time a few steps of the network on ``dataset``, at most 5 s. The weights that they make are thrown away."""
    spec, resolved = project.spec, project.resolved
    runtime = choose_runtime(spec.train.precision, spec.train.threads)
    schema = Schema.load(dataset.path)
    names = list(schema.inputs), list(schema.targets)
    train = Table.open(dataset.path, "train", *names, spec.seed, schema.changes(spec.seed), moves=schema.moves(spec.seed))
    watched = Table.open(dataset.path, "validation", *names, shuffle=False)
    with torch.random.fork_rng(devices=[]):
        network = make_network(spec.model, schema.layouts, spec.seed, project.folder).to(runtime.device)
        step, flops = _timed(network, train, resolved.batch, project)
        forward = _forward(network, watched, min(resolved.batch, watched.records))
    budget = resolved.budget
    alike = min(max(watched.records, 256), train.records)  # so many of the train part are measured too
    validation = forward * sum(math.ceil(count / resolved.batch) for count in (watched.records, alike))
    count = math.ceil(1 / spec.train.validate_every) if spec.train.validate_every else 1
    if budget.unit == "seconds":
        steps = max(1, int((budget.amount - validation * (count - 1)) / step))
    else:
        per_step = resolved.batch / train.records if budget.unit == "epochs" else 1.0
        steps = max(1, math.ceil(budget.amount / per_step))
    seconds = budget.amount + validation if budget.unit == "seconds" else steps * step + validation * count
    energy = seconds / 3600 * spec.plan.power / 1000
    limit = spec.plan.memory if spec.plan.memory is not None else free_memory() + peak_memory()
    return RecordsPlan(
        spec.name, network.parameter_count, train.records, resolved.batch, steps, steps * resolved.batch / train.records,
        flops * steps, step, seconds, peak_memory(), limit, energy,
        seconds / 3600 * spec.plan.price + energy * spec.plan.energy_price, spec.plan.currency, str(budget),
        tuple({"key": d.key, "value": str(d.value), "reason": d.reason} for d in resolved.reasons),
    )


def _timed(network: Network, train: Table, batch: int, project: Project) -> tuple[float, float]:
    """Median seconds of a step, and its FLOPs."""
    settings = project.spec.train
    optimizer = make_adamw(network.named_parameters(), 1e-9, settings.betas, settings.weight_decay)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()
        network(train.batch_at(0, batch))
    times: list[float] = []
    start = time.perf_counter()
    network.train()
    for number in range(_WARM + _STEPS):
        begun = time.perf_counter()
        torch.autograd.backward(network.loss(train.batch_at(number, batch)))
        optimizer.update(settings.clip or None)
        now = time.perf_counter()
        if number >= _WARM or now - start > _SECONDS:
            times.append(now - begun)
        if now - start > _SECONDS:
            break
    return statistics.median(times), 3.0 * float(counter.get_total_flops())


@torch.inference_mode()
def _forward(network: Network, watched: Table, batch: int) -> float:
    """Median seconds of a validation batch."""
    network.eval()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        network.loss(watched.batch_at(0, batch))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
