"""What a project's file leaves to memory or to measuring, as plain values: ``train.batch``, ``accumulate``, ``recompute`` and
``learning_rate``.

What was found is kept in the store's settled.json by all that it follows from: so plan and run agree, nothing is counted or
measured twice, and a run that was interrupted goes on as what it was, whatever else the machine has to do by then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from treadle.core import machine
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.core.runtime import Runtime, choose_runtime
from treadle.plan import pace
from treadle.plan.estimate import memory_limit
from treadle.plan.parts import COUNTED, NetworkNeeds, fewest_parts, language_needs, network_needs, swift_parts
from treadle.plan.times import machine as machine_name
from treadle.spec.units import format_count, format_size, significant
from treadle.store.artifacts import Artifact, Store
from treadle.store.kept import SETTLED, Kept
from treadle.train import range_test
from treadle.train.objectives import OBJECTIVES
from treadle.train.rounds import Round, first_round
from treadle.train.stage import identity, round_runtime, train_flops

_SPAN = 4
"""A batch that is chosen is at most so many times smaller or larger than the one that follows from the size."""
_PER_PASS = 20
"""Steps that one pass over the data has at least, with a batch that is chosen."""
_SHORT, _LONG = 5e7, 2e9
"""FLOPs of a training step between which it is measured whether several threads are faster (docs/experiments.md)."""
_RATE = 2e10
"""FLOP/s that a core reaches, about: how much a run in wall time computes."""
_WORTH = 3e11
"""FLOPs of a run from which measuring for a few seconds is worth it."""
_FEW = 8
"""Examples by which memory is counted."""

Needs = Callable[[int], int]
"""Bytes of training by the number of examples that are computed at once."""


def settle(project: Project, dataset: Callable[[], Artifact]) -> Project:
    """``project`` with plain numbers, each with its reason. ``dataset`` is asked for where its examples are needed."""
    train = project.spec.train
    language = project.resolved.shape is not None
    if train.accumulate is not None and "auto" not in (train.batch, train.learning_rate) and not language:
        return project
    needs = _needs(project, dataset)
    limit = memory_limit(project, choose_runtime(train.precision, train.threads).device)[0]
    if train.batch == "auto":
        project = _settle_batch(project, dataset(), needs(bool(train.recompute)), limit)
    if train.accumulate is None or language:
        project = _settle_memory(project, needs, limit)
    if not language and train.threads is None:
        project = _settle_threads(project, dataset)
    if train.learning_rate == "auto":
        fits = needs(bool(project.spec.train.recompute))(project.resolved.batch // project.spec.train.parts) <= limit
        project = _settle_rate(project, dataset()) if fits else _by_rule(project, "learning_rate", project.resolved.learning_rate)
    return project


def _needs(project: Project, dataset: Callable[[], Artifact]) -> Callable[[bool], Needs]:
    """By whether a language model's layers are computed again."""
    spec, shape = project.spec, project.resolved.shape
    if shape is not None:
        assert spec.model.trunk.transformer is not None
        dropout = spec.model.trunk.transformer.dropout
        runtime = _language_runtime(project)
        return lambda again: language_needs(shape, dropout, runtime, spec.train.copies, again)
    found, rows = dataset(), min(_FEW, project.resolved.batch)
    kept, follows = Kept(project.store / SETTLED), ["memory", COUNTED, torch.__version__, identity(project), found.id, rows]
    known = kept.find([*follows, spec.train.copies])
    if known:
        return lambda again: NetworkNeeds(**known)
    made = first_round(project, found)
    needs = network_needs(made.model, made.batches.batch_at(0, rows), spec.train.copies)
    kept.keep([*follows, spec.train.copies], asdict(needs))
    return lambda again: needs


def _settle_memory(project: Project, needs: Callable[[bool], Needs], limit: int) -> Project:
    """The fewest parts of which each fits into memory, or more where that takes hardly longer; where not even a single example
    fits, with a language model's layers computed again in the backward pass; where that does not fit either, the plan says what to
    do."""
    train, batch, kept = project.spec.train, project.resolved.batch, Kept(project.store / SETTLED)
    follows = ["accumulate", identity(project), batch, train.copies, train.precision]
    found: dict[str, Any] | None = {"parts": train.accumulate} if train.accumulate else kept.find(follows)
    ways = [bool(train.recompute)] if train.recompute is not None or project.resolved.shape is None else [False, True]
    again = next((way for way in ways if found and needs(way)(batch // found["parts"]) <= limit), None)
    if again is None and train.accumulate is None:
        swift = _swift_parts(project)
        fitting = {way: fewest_parts(batch, limit, needs(way), swift) for way in ways}
        again = next((way for way in ways if fitting[way]), None)
        if again is None:
            return project
        parts = fitting[again] or 1
        found = {"parts": parts, "reason": _why_in_parts(batch, parts, needs(False), limit if again or parts > swift else None)}
        if parts > 1:
            kept.keep(follows, found)
    if train.accumulate is None and found and found["parts"] > 1:
        _tell("accumulate", found["parts"], found["reason"])
        project = project.settled("accumulate", found["parts"], found["reason"])
    if not again or train.recompute:
        return project
    least = batch // project.spec.train.parts
    reason = f"{least} example{'s' * (least > 1)} at once would need {format_size(needs(False)(least))} of memory, and there is "
    reason += f"{format_size(limit)}: each layer is computed again in the backward pass, with the same result in a third more time"
    _tell("recompute", True, reason)
    return project.settled("recompute", True, reason)


def _swift_parts(project: Project) -> int:
    """Of a language model on a processor."""
    shape = project.resolved.shape
    if shape is None or (runtime := _language_runtime(project)).device.type != "cpu":
        return 1
    return swift_parts(project.resolved.batch, shape.train_flops * project.resolved.tokens_per_step, runtime.workers)


def _language_runtime(project: Project) -> Runtime:
    """Where a language model trains, with as many workers as any number of rows allows."""
    spec = project.spec
    assert spec.model.trunk.transformer is not None
    runtime = choose_runtime(spec.train.precision, spec.train.threads)
    return runtime.beside(runtime.threads, spec.model.trunk.transformer.dropout == 0.0)


def _why_in_parts(batch: int, parts: int, needs: Needs, limit: int | None) -> str:
    """``limit``: of memory, which asks for so many; ``needs``: without computing layers again."""
    whole = f"a batch of {batch} at once needs {format_size(needs(batch))} of memory"
    why = f"there is {format_size(limit)}" if limit else f"parts of {batch // parts} need {format_size(needs(batch // parts))}"
    return f"{whole}, and {why}; in parts its gradient is the same" + ("" if limit else ", and takes about as long")


def _settle_batch(project: Project, dataset: Artifact, needs: Needs, limit: int) -> Project:
    """The smallest that is nearly as fast per example as any that fits whole, within bounds that keep it learning well."""
    usual, parts = project.resolved.batch, project.spec.train.parts
    made = first_round(project, dataset)
    kept, follows = Kept(project.store / SETTLED), ["batch", pace.VERSION, *_what_trains(project, made, dataset)]
    found = kept.find(follows)
    if found is None:
        most, bound = _largest(project, made, dataset)
        sizes = [size for size in _sizes(usual, parts) if needs(size // parts) <= limit]
        if not sizes:
            return _by_rule(project, "batch", usual)
        sizes = [size for size in sizes if size <= max(most, sizes[0])]
        curve = [(size, _pace(project, made, size)) for size in sizes]
        reason = f"the smallest that is nearly as fast per example as any from {sizes[0]} to {sizes[-1]}, {bound}"
        found = {"batch": pace.smallest_fast(curve), "curve": [[n, significant(s)] for n, s in curve], "reason": reason}
        kept.keep(follows, found)
    batch, rule = found["batch"], _reason(project, "learning_rate")
    _tell("batch", batch, found["reason"])
    rate = significant(project.resolved.learning_rate * math.sqrt(batch / usual))
    settled = project.settled("batch", batch, found["reason"], tuple((n, s) for n, s in found["curve"]))
    if project.spec.train.learning_rate is not None or batch == usual:
        return settled
    why = f"{rule}, for a batch of {usual}; times the root of {batch} / {usual} (Malladi et al. 2022)"
    return settled.settled("learning_rate", rate, why)


def _sizes(usual: int, parts: int) -> list[int]:
    """Powers of two around the usual batch, as multiples of ``parts``."""
    near = [usual / _SPAN * 2**power for power in range(2 * int(math.log2(_SPAN)) + 1)]
    return sorted({max(1, round(size / parts)) * parts for size in near})


def _largest(project: Project, made: Round, dataset: Artifact) -> tuple[int, str]:
    """The largest batch that still learns well from each example, and what says so."""
    bounds = [
        (_SPAN * project.resolved.batch, f"at most {_SPAN} times the usual {project.resolved.batch}"),
        (made.per_epoch // made.held_out.per_row // _PER_PASS, f"at most a {_PER_PASS}th of one pass over the data"),
    ]
    of = json.loads(json.dumps(identity(project)))
    for model in reversed(Store(project.store).all()):
        noise = model["counts"].get("noise_scale")
        if model["kind"] == "model" and noise and model["parents"] == [dataset.id] and model["config"]["model"] == of:
            words = f"at most the gradient noise scale of {model['id']}, {format_count(int(noise))}"
            bounds.append((int(noise), words))
            break
    return min(bounds)


def _pace(project: Project, made: Round, size: int) -> float:
    trial = project.settled("batch", size, "tried")
    runtime = round_runtime(trial, made, train_flops(trial, made))
    return pace.seconds_per_example(
        made.model, OBJECTIVES[made.objective], made.batches.batch_at, made.settings, size, runtime,
    )


def _settle_threads(project: Project, dataset: Callable[[], Artifact]) -> Project:
    """As many threads as are clearly faster, where a step is neither so short that they would wait for one another longer than they
    work, nor so long that they hardly wait, and the run long enough to be worth the measuring."""
    most, runtime = machine.threads(), choose_runtime(project.spec.train.precision)
    if most == 1 or runtime.device.type != "cpu":
        return project
    made, batch, budget = first_round(project, dataset()), project.resolved.batch, project.resolved.budget
    each, per_step = train_flops(project, made), batch * made.held_out.per_row
    step = each * per_step / project.spec.train.parts
    units = {"epochs": made.per_epoch, "tokens": 1, "steps": per_step, "seconds": _RATE / each}[budget.unit]
    if not _SHORT <= step <= _LONG or each * units * budget.amount < _WORTH:
        return project
    settings = made.settings.model_dump(mode="json", include={"accumulate", "optimizer", "clip"})
    where = [machine_name(), torch.__version__, most, runtime.precision]
    kept, follows = Kept(project.store / SETTLED), ["threads", pace.VERSION, *where, identity(project), batch, settings]
    found = kept.find(follows)
    if found is None:

        def seconds(threads: int) -> float:
            on = choose_runtime(runtime.precision, threads)
            return batch * pace.seconds_per_example(
                made.model, OBJECTIVES[made.objective], made.batches.batch_at, made.settings, batch, on
            )

        count, curve = pace.enough_threads(seconds, most)
        told = ", ".join(f"{significant(1000 * s, 2):g} ms by {n}" for n, s in curve)
        found = {"threads": count, "curve": curve, "reason": f"a step took {told}; more are taken where they are clearly faster"}
        kept.keep(follows, found)
    _tell("threads", found["threads"], found["reason"])
    return project.on_threads(found["threads"], found["reason"], tuple((n, s) for n, s in found["curve"]))


def _settle_rate(project: Project, dataset: Artifact) -> Project:
    """From a range test on fresh weights, which are then thrown away."""
    made, batch, rule = first_round(project, dataset), project.resolved.batch, project.resolved.learning_rate
    runtime = round_runtime(project, made, train_flops(project, made))
    kept = Kept(project.store / SETTLED)
    follows = ["learning_rate", range_test.VERSION, *_what_trains(project, made, dataset), rule, *runtime.way.values()]
    found = kept.find(follows)
    if found is None:
        test = range_test.range_test(
            made.model, OBJECTIVES[made.objective], lambda step: made.batches.batch_at(step, batch), made.settings, rule,
            runtime, project.spec.seed,
        )
        reason = test.reason if test.rate else f"{test.reason}: {_reason(project, 'learning_rate')}"
        found = {"rate": test.rate or rule, "reason": reason, "points": [list(point) for point in test.points]}
        kept.keep(follows, found)
    _tell("learning_rate", found["rate"], found["reason"])
    return project.settled("learning_rate", found["rate"], found["reason"], tuple((x, y) for x, y in found["points"]))


def _what_trains(project: Project, made: Round, dataset: Artifact) -> list[Any]:
    """All that a training step follows from but the rate and the machine."""
    keys = {"accumulate", "optimizer", "groups", "layer_decay", "clip", "weight_decay", "l1", "precision"}
    settings = made.settings.model_dump(mode="json", include=keys)
    return [identity(project), dataset.id, project.resolved.batch, settings, project.spec.seed]


def _by_rule(project: Project, key: str, value: float) -> Project:
    """Where there is not even the memory to measure."""
    reason = f"not measured, since a step may not fit into memory: {_reason(project, key)}"
    _tell(key, value, reason)
    return project.settled(key, value, reason)


def _reason(project: Project, key: str) -> str:
    """Why it is what it is until it is measured."""
    why = next(row.reason for row in project.resolved.reasons if row.key == key)
    return why.rpartition("before the run: ")[2]


def _tell(key: str, value: float, reason: str) -> None:
    say(f"train.{key}: {'true' if value is True else f'{value:g}'}, {reason}")
