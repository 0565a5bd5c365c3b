"""What a run will take on this machine: time, memory, energy, money, before any is spent; and how true that was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from treadle.core.errors import UserError
from treadle.core.machine import free_memory
from treadle.core.project import Project
from treadle.core.runtime import Runtime, choose_runtime
from treadle.model.score import ROWS
from treadle.plan import counting
from treadle.plan.calibrate import Calibration, calibrate
from treadle.plan.counting import Memory, Work
from treadle.plan.show import plan_lines
from treadle.plan.sources import DataSize, measure_data
from treadle.plan.times import corrections, machine, stage_times, work_in_time
from treadle.spec.shape import Shape
from treadle.spec.units import format_size, significant
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

STAGES = ("prepare", "train", "evaluate", "compress")


@dataclass(frozen=True)
class Stage:
    """One stage's prediction. ``seconds`` is None where the machine was not calibrated."""

    name: str
    seconds: float | None
    memory: Memory
    raw: float | None = None
    """Seconds before the correction by earlier runs."""
    basis: str = ""
    """What the time is made of."""


@dataclass(frozen=True)
class Assumption:
    """A number that the plan rests on, and where it is from."""

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Plan:
    """What a run takes. ``fits`` False: ``verdict`` says why and ``cure`` what to change, and nothing was timed."""

    name: str
    shape: dict[str, Any]
    parameters: int
    budget: str
    batch: int
    tokens_per_step: int
    data: DataSize
    work: Work | None
    stages: tuple[Stage, ...]
    disk: Mapping[str, int]
    memory_limit: int
    limit_source: str
    disk_free: int
    fits: bool
    verdict: str
    cure: str
    energy: float | None
    """kWh."""
    money: float | None
    currency: str
    calibration: Calibration | None
    assumptions: tuple[Assumption, ...]
    derived: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Of all stages together."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def peak_memory(self) -> int:
        return max(stage.memory.total for stage in self.stages)

    def check(self) -> None:
        """Raises ``UserError`` where the run will not fit."""
        if not self.fits:
            raise UserError(self.verdict, cure=self.cure)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; ``compare`` takes it."""
        stages = [
            {"stage": s.name, "seconds": _short(s.seconds), "raw": _short(s.raw), "memory": s.memory.total,
             "memory_parts": dict(s.memory.parts), "basis": s.basis}
            for s in self.stages
        ]
        own = (
            "name", "shape", "parameters", "budget", "batch", "tokens_per_step", "memory_limit", "limit_source", "disk_free",
            "fits", "verdict", "cure", "currency", "peak_memory",
        )
        return {key: getattr(self, key) for key in own} | {
            "stages": stages, "seconds": _short(self.seconds), "disk": dict(self.disk), "energy_kwh": _short(self.energy),
            "money": _short(self.money), "machine": machine(), "notes": list(self.notes),
            "data": asdict(self.data) | {"tokens": self.data.tokens}, "work": asdict(self.work) if self.work else None,
            "flops_per_token": Shape(**self.shape).train_flops,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "assumptions": [asdict(a) for a in self.assumptions], "derived": [dict(d) for d in self.derived],
        }

    def lines(self) -> list[str]:
        """For people."""
        return plan_lines(self.as_dict())


def make_plan(project: Project, store: Store, ledger: Ledger | None = None) -> Plan:
    """Count first; calibrate this machine (at most 10 s, cached in the store) only if what was counted fits. Times are corrected by
    the runs that ``ledger`` knows of. Raises ``SourceError`` where the data is not there."""
    spec, resolved = project.spec, project.resolved
    data = measure_data(project, store)
    step = resolved.language.train_flops * resolved.tokens_per_step / spec.train.parts
    assert spec.model.trunk.transformer is not None
    rows, divisible = resolved.batch // spec.train.parts, spec.model.trunk.transformer.dropout == 0.0
    runtime = choose_runtime(spec.train.precision, spec.train.threads, step).beside(rows, divisible)
    memory = _memory(project, data, runtime, resolved.language, rows, bool(spec.train.recompute))
    limit, limit_source = memory_limit(project, runtime.device)
    quantize = spec.compress.quantize or "int8"
    work = counting.count_work(resolved.language, resolved.batch, resolved.budget, data.train)
    s = spec.train
    stay = s.keep_best + (work.steps // s.keep_every if work and s.keep_every else 0)
    disk = counting.disk_bytes(resolved.language, data.text, data.tokens, s.keep_checkpoints, quantize, s.copies, stay)
    disk_free = shutil.disk_usage(_existing(store.root)).free
    verdict, cure = _verdict(project, data, runtime, memory, limit, sum(disk.values()), disk_free)
    calibration = None if verdict else calibrate(project, runtime, store.root)
    times: dict[str, tuple[float, str]] = {}
    if calibration:
        work = work or work_in_time(project, data, calibration)
        times = stage_times(project, data, calibration, work)
    factors = corrections(ledger, resolved.budget) if ledger else {}
    stages = tuple(_stage(name, memory[name], times.get(name), factors.get(name)) for name in STAGES)
    energy, price = spec.plan.cost(sum(s.seconds or 0.0 for s in stages))
    return Plan(
        spec.name, resolved.language.as_dict(), resolved.language.parameters, str(resolved.budget), resolved.batch,
        resolved.tokens_per_step, data, work, stages, disk, limit, limit_source, disk_free, not verdict,
        verdict or f"fits: {format_size(max(m.total for m in memory.values()))} of {format_size(limit)} memory", cure,
        energy if times else None, price if times else None,
        spec.plan.currency, calibration, _assumptions(project, data, calibration, factors),
        tuple(d.as_dict() for d in resolved.reasons),
        _notes(project, data, work, calibration),
    )


def compare(plan: Mapping[str, Any], seconds: Mapping[str, float], peak_memory: int) -> dict[str, Any]:
    """Predicted beside measured, for ``Plan.as_dict()`` and the seconds of each stage that ran: JSON values, for the ledger and the
    report. A stage that did not run has ``"cached": True`` and nothing measured, and does not count in the total; the peak memory
    is compared only where all ran, since it is that of the whole process."""
    rows: list[dict[str, Any]] = []
    for stage in plan["stages"]:
        assert stage["seconds"], "a run was planned that does not fit"
        measured = seconds.get(stage["stage"])
        ratio = None if measured is None else _short(measured / stage["seconds"])
        rows.append({
            "stage": stage["stage"], "predicted": stage["seconds"], "measured": _short(measured), "ratio": ratio,
            "raw": stage["raw"], "cached": measured is None,
        })
    ran = [row for row in rows if not row["cached"]]
    predicted, measured = sum(row["predicted"] for row in ran), sum(row["measured"] for row in ran)
    total = {"predicted": _short(predicted), "measured": _short(measured), "ratio": _short(measured / predicted) if ran else None}
    memory_ratio = _short(peak_memory / plan["peak_memory"]) if len(ran) == len(rows) else None
    memory = {"predicted": plan["peak_memory"], "measured": peak_memory, "ratio": memory_ratio}
    return {"stages": rows, "total": total, "peak_memory": memory, "machine": plan["machine"], "budget": plan["budget"],
            "energy_kwh": plan["energy_kwh"], "money": plan["money"], "currency": plan["currency"]}


def _memory(project: Project, data: DataSize, runtime: Runtime, shape: Shape, rows: int, recompute: bool) -> dict[str, Memory]:
    """Of every stage, with ``rows`` sequences computed at once in training, whose layers are computed again if ``recompute``."""
    trunk = project.spec.model.trunk.transformer
    assert trunk is not None
    return {
        "prepare": counting.prepare_memory(data.text),
        "train": counting.train_memory(
            shape, rows, trunk.dropout, runtime.precision, project.spec.train.copies, runtime.workers, recompute,
            runtime.kernels,
        ),
        "evaluate": counting.score_memory(shape, ROWS, data.train),
        "compress": counting.score_memory(shape, ROWS, 0, copies=2),
    }


def memory_limit(project: Project, device: torch.device) -> tuple[int, str]:
    if project.spec.plan.memory is not None:
        return project.spec.plan.memory, "plan.memory"
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]), "free on the GPU now"
    return free_memory(), "free now"


def _verdict(
    project: Project, data: DataSize, runtime: Runtime, memory: Mapping[str, Memory], limit: int, disk: int, disk_free: int
) -> tuple[str, str]:
    """What does not fit and the cure, or two empty strings."""
    worst = max(memory, key=lambda name: memory[name].total)
    needed = memory[worst].total
    if needed > limit:

        def fits(shape: Shape, rows: int) -> bool:
            again = project.spec.train.recompute is not False  # it is chosen where nothing else fits
            return all(stage.total <= limit for stage in _memory(project, data, runtime, shape, rows, again).values())

        what = f"will not fit: '{worst}' needs {format_size(needed)} of memory, there is {format_size(limit)}"
        return what, counting.cure_for_memory(project.spec, limit, fits)
    if disk > disk_free:
        what = f"will not fit: needs {format_size(disk)} of disk for {project.store}, {format_size(disk_free)} is free"
        return what, "free some space, or set 'store:' to a folder on another disk"
    return "", ""


def _stage(name: str, memory: Memory, time: tuple[float, str] | None, factor: float | None) -> Stage:
    if time is None:
        return Stage(name, None, memory)
    raw, basis = time
    return Stage(name, raw * (factor or 1.0), memory, raw, basis)


def _assumptions(
    project: Project, data: DataSize, calibration: Calibration | None, factors: Mapping[str, float]
) -> tuple[Assumption, ...]:
    plan = project.spec.plan
    given = plan.model_fields_set

    def source(key: str) -> str:
        return f"plan.{key}" if key in given else f"stated default of plan.{key}"

    found = [
        Assumption("power", f"{plan.power:g} W", source("power")),
        Assumption("machine price", f"{plan.price:g} {plan.currency}/h", source("price")),
        Assumption("energy price", f"{plan.energy_price:g} {plan.currency}/kWh", source("energy_price")),
        Assumption("data", f"{data.bytes_per_token:.2f} bytes per token", data.source),
        Assumption("FLOPs per token", "forward once, backward twice", "Kaplan et al. 2020, with output layer, causal attention"),
    ]
    if calibration:
        when = "measured earlier" if calibration.cached else "measured now"
        found.append(Assumption("training step", f"{calibration.step_seconds:.3g} s", f"{when} on this machine"))
        found.append(Assumption("matrix peak", f"{calibration.matrix_peak / 1e9:.0f} GFLOP/s", f"{when} on this machine"))
        if calibration.timed:
            found.append(Assumption("scaled up by FLOPs", calibration.timed, "a whole step takes too long to time"))
    for stage, factor in factors.items():
        found.append(Assumption(f"time of '{stage}'", f"x {factor:.2f}", "what this project's earlier runs took"))
    if calibration and not {"prepare", "evaluate", "compress"} <= set(factors):
        found.append(Assumption("rates of text work", "prepare, baselines", "stated defaults; corrected after the first run"))
    return tuple(found)


def _notes(project: Project, data: DataSize, work: Work | None, calibration: Calibration | None) -> tuple[str, ...]:
    """What a person who knows the field would say of these figures."""
    notes = []
    if calibration and calibration.unsure:
        notes.append(
            f"other programs took {calibration.busy:.0%} of the processor while this machine was calibrated: the times are those "
            "of a busy machine, and are measured again at the next plan"
        )
    if work:
        ratio = work.tokens / project.resolved.language.parameters
        if ratio < 5:
            notes.append(
                f"{ratio:.2g} tokens per parameter: about 20 is the best use of compute (Hoffmann et al. 2022); a smaller depth "
                "would see more tokens in the same time"
            )
        if work.epochs > 4:
            notes.append(
                f"{work.epochs:.1f} passes over the data: beyond about 4, repeated text teaches ever less (Muennighoff et al. "
                "2023); give more data or watch the validation loss"
            )
    if data.test < 2000:
        notes.append(f"the test part will hold about {data.test} tokens: its figures will have wide intervals")
    return tuple(notes)


def _existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return path if path.exists() else _existing(path.parent)


def _short(value: float | None) -> float | None:
    return None if value is None else significant(value)
