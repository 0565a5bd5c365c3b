"""Cross-validation's parts: each fold is the test part of one model, which learns from the records of the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from treadle.core.errors import UserError
from treadle.data.record import Record

Parts = dict[str, list[Record]]


def fold_parts(
    records: Sequence[Record], folds: int, fold: int, seed: int, validation: float, answer: str | None, time: str | None
) -> Parts:
    """The parts of ``fold`` (from 0): its records to test, the share ``validation`` of the other groups to watch training, the rest
    to train. ``answer``: field whose classes every fold gets alike; ``time``: field by which folds are stretches of time instead.

    Raises ``UserError`` where there are fewer groups than folds, or records without their time.
    """
    if time is not None:
        return _stretch(records, folds, fold, validation, time)
    places = _places(records, folds, seed, answer)
    rest = [record for record in records if places[record.group] != fold]
    watched = sorted({record.group for record in rest}, key=lambda group: _chance(group, seed, "watched"))
    held = set(watched[: max(1, round(validation * len(watched)))])
    return {
        "train": [record for record in rest if record.group not in held],
        "validation": [record for record in rest if record.group in held],
        "test": [record for record in records if places[record.group] == fold],
    }


def _places(records: Sequence[Record], folds: int, seed: int, answer: str | None) -> dict[str, int]:
    """Group -> fold. Groups are dealt one by one, class by class, each to the fold that has fewest records of its class so far."""
    groups: dict[str, Counter[str]] = {}
    for record in records:
        groups.setdefault(record.group, Counter())[str(record.fields.get(answer)) if answer else ""] += 1
    _enough(len(groups), folds, "groups")

    def turn(group: str) -> Any:
        kind, count = groups[group].most_common(1)[0]
        return kind, -count, _chance(group, seed, "fold")

    of_class: list[Counter[str]] = [Counter() for _ in range(folds)]
    places = {}
    for group in sorted(groups, key=turn):
        kind = groups[group].most_common(1)[0][0]
        fold = min(range(folds), key=lambda f: (of_class[f][kind], of_class[f].total(), f))
        places[group] = fold
        of_class[fold] += groups[group]
    return places


def _stretch(records: Sequence[Record], folds: int, fold: int, validation: float, time: str) -> Parts:
    """Records in the order of ``time``, cut into one stretch more than there are folds: a fold's model learns from all that lies
    before its stretch, and is watched by the last of that. Records of one moment stand together."""
    timeless = sum(record.fields.get(time) is None for record in records)
    if timeless:
        cure = "fill it in, leave those records out, or make folds by chance: leave evaluate.time out"
        raise UserError(f"evaluate.time: {timeless} of {len(records)} records have no {time!r}", cure=cure)
    moments = sorted({float(record.fields[time]) for record in records})
    _enough(len(moments), folds + 1, f"moments in {time!r}")
    bounds = [moments[len(moments) * cut // (folds + 1)] for cut in range(folds + 1)] + [float("inf")]
    start, end = bounds[fold + 1], bounds[fold + 2]
    before = [moment for moment in moments if moment < start]
    watch = before[min(len(before) - 1, round((1 - validation) * len(before)))]

    def part(holds: Callable[[float], bool]) -> list[Record]:
        return [record for record in records if holds(float(record.fields[time]))]

    found = {
        "train": part(lambda t: t < watch), "validation": part(lambda t: watch <= t < start),
        "test": part(lambda t: start <= t < end),
    }
    if not found["train"]:
        raise UserError(f"evaluate.folds: nothing lies before {time!r} of fold {fold + 1}", cure="ask for fewer folds")
    return found


def _enough(there: int, needed: int, what: str) -> None:
    if there < needed:
        cure = "ask for fewer folds, or give more data"
        raise UserError(f"evaluate.folds: {there} {what} are too few, {needed} are needed", cure=cure)


def _chance(group: str, seed: int, what: str) -> bytes:
    return hashlib.sha256(f"{seed}:{what}:{group}".encode()).digest()
