"""Folds: every record is tested once, classes are alike, groups stay whole, time runs forward."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import UserError
from treadle.data.record import Record
from treadle.prepare.folds import fold_parts


def record(number: int, group: str, **fields: object) -> Record:
    return Record(f"id{number}", fields, "rows.csv", "CC0-1.0", group)


ROWS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=60, max_size=120)


@given(st.integers(2, 9), ROWS, st.integers(0, 99))
def test_every_record_is_tested_once_and_no_group_is_parted(folds: int, rows: list[tuple[int, str]], seed: int):
    records = [record(n, f"g{group}", kind=kind) for n, (group, kind) in enumerate(rows)]
    if len({r.group for r in records}) < folds:
        return
    tested: Counter[str] = Counter()
    for fold in range(folds):
        parts = fold_parts(records, folds, fold, seed, 0.1, "kind", None)
        tested.update(r.id for r in parts["test"])
        assert sorted(r.id for part in parts.values() for r in part) == sorted(r.id for r in records)
        groups = [{r.group for r in part} for part in parts.values()]
        assert len(set.union(*groups)) == sum(map(len, groups))
    assert set(tested.values()) == {1}


@given(st.integers(2, 10), st.integers(0, 1000))
def test_folds_have_like_shares_of_each_class(folds: int, seed: int):
    source = random.Random(seed)
    records = [record(n, f"g{n}", kind=source.choices("ab", (1, 9))[0]) for n in range(200)]
    tests = [fold_parts(records, folds, fold, seed, 0.1, "kind", None)["test"] for fold in range(folds)]
    counts = [Counter(r.fields["kind"] for r in test) for test in tests]
    for kind in "ab":
        assert max(c[kind] for c in counts) - min(c[kind] for c in counts) <= 1
    assert max(c.total() for c in counts) - min(c.total() for c in counts) <= 2


def test_another_seed_makes_other_folds_and_the_same_seed_the_same():
    records = [record(n, f"g{n}") for n in range(50)]
    one, same, other = ([r.id for r in fold_parts(records, 5, 0, seed, 0.1, None, None)["test"]] for seed in (1, 1, 2))
    assert one == same != other


@given(st.integers(2, 6), st.lists(st.integers(0, 60), min_size=40, max_size=90))
def test_in_time_a_model_learns_from_what_lies_before(folds: int, times: list[int]):
    records = [record(n, f"g{n}", when=float(t)) for n, t in enumerate(times)]
    if len(set(times)) < 2 * (folds + 1):
        return
    before = 0.0
    for fold in range(folds):
        found = fold_parts(records, folds, fold, 0, 0.2, None, "when")
        parts = {name: [r.fields["when"] for r in part] for name, part in found.items()}
        assert max(parts["train"]) < min(parts["validation"]) <= max(parts["validation"]) < min(parts["test"])
        assert min(parts["test"]) > before
        before = max(parts["test"])
        assert len(parts["train"]) + len(parts["validation"]) == sum(t < min(parts["test"]) for t in times)
    assert before == max(times)


def test_what_cannot_be_dealt_out_is_said():
    records = [record(n, f"g{n % 3}", when=None if n else 1.0) for n in range(30)]
    with pytest.raises(UserError, match="3 groups are too few, 5 are needed"):
        fold_parts(records, 5, 0, 0, 0.1, None, None)
    with pytest.raises(UserError, match="29 of 30 records have no 'when'"):
        fold_parts(records, 2, 0, 0, 0.1, None, "when")
