"""Leave the last one out: every user once, what is asked lies behind all that is shown, nothing held out is learned from."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import write_project

from treadle.core.errors import UserError
from treadle.core.project import SpecError
from treadle.data.columns import load_column
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.targets.items import NextItemTarget
from treadle.feedback.records import as_record
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset, split_last
from treadle.spec.model import Model
from treadle.store.artifacts import Store

SPEC = """\
name: items
data:
  sources: [{table: rows.csv, licence: CC0-1.0, history: {user: user, item: item, time: time, into: past}}]
  split: {by: last}
model:
  inputs: {past: {events: {context: 4, rare: 1}}}
  trunk: {recurrent: {cell: gru, width: 16, embedding: 16}}
  heads: {next: next_item}
train: {budget: 2 epochs, batch: 4, threads: 1, precision: float32}
"""


def model(context: int = 4) -> Model:
    return Model.model_validate({
        "inputs": {"past": {"events": {"context": context, "rare": 1}}}, "trunk": {"recurrent": {}}, "heads": {"next": "next_item"},
    })


def records(lengths: list[int]) -> list[Record]:
    """Users whose items are told apart by their numbers."""
    pasts = [[{"item": f"{user}.{n}", "time": float(n)} for n in range(length)] for user, length in enumerate(lengths)]
    return [Record(f"id{user}", {"past": past}, f"user {user}", "CC0-1.0", "") for user, past in enumerate(pasts)]


@settings(max_examples=60)
@given(st.lists(st.integers(3, 30), min_size=1, max_size=6), st.integers(1, 7))
def test_each_event_is_asked_once_and_never_shown_before_it_is(lengths, context):
    schema = Schema(model(context))
    parts = split_last(records(lengths), schema)
    asked = {
        part: [(row["past"], row["next"]) for record in found for row in schema.rows(record.fields, part == "train")]
        for part, found in parts.items()
    }
    for part, left in (("test", 1), ("validation", 2)):
        assert len(asked[part]) == len(lengths)
        for user, (past, follow) in enumerate(asked[part]):
            assert [event["item"] for event in past] == [f"{user}.{n}" for n in range(lengths[user] - left)]
            assert follow == [f"{user}.{lengths[user] - left}"]
    counts = Counter(item for _, follow in asked["train"] for item in follow)
    assert counts == Counter({f"{user}.{n}": 1 for user, length in enumerate(lengths) for n in range(1, length - 2)})
    for past, follow in asked["train"]:
        user = past[0]["item"].split(".")[0]
        shown = [int(event["item"].split(".")[1]) for event in past]
        assert 1 <= len(past) <= context
        for back, item in enumerate(follow):  # what followed the newest event, then what followed the one before
            assert item == f"{user}.{shown[-1 - back] + 1}"
        oldest = len(past) - len(follow)  # events that are shown before the first that is asked about
        assert shown[0] == 0 or oldest >= context // 2


def write_rows(folder, rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))


def test_the_dataset_learns_its_items_from_training_events_alone(tmp_path):
    write_rows(tmp_path, [(u, f"{u}{n}", n) for u in "abc" for n in range(6)])
    project = write_project(tmp_path, text=SPEC)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    assert {part: count["records"] for part, count in dataset.counts["parts"].items()} == {"train": 3, "validation": 3, "test": 3}
    schema = Schema.load(dataset.path)
    target = schema.targets["next"]
    assert isinstance(target, NextItemTarget)
    assert set(target.history.vocabulary.names) == {f"{u}{n}" for u in "abc" for n in range(4)}
    test = load_column(dataset.path, "test", "heads.next")
    assert np.asarray(test.values).tolist() == [2, 2, 2]  # unknown to training, so rare


def test_records_of_events_fall_into_the_part_of_their_event(tmp_path):
    rows = [(u, f"i{(n * 7 + ord(u)) % 9}", n) for u in "abcd" for n in range(6)]
    write_rows(tmp_path, rows)
    text = SPEC.replace("into: past}", "into: past, per: event, negatives: 2}")
    text = text.replace("heads: {next: next_item}", "heads: {chosen: binary}")
    text = text.replace("rare: 1}}}", "rare: 1}}, item: {category: {items: past}}}")
    project = write_project(tmp_path, text=text)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    counts = {part: count["records"] for part, count in dataset.counts["parts"].items()}
    assert counts == {"train": 4 * 4 * 3, "validation": 4 * 3, "test": 4 * 3}
    lengths = load_column(dataset.path, "test", "inputs.past").lengths()
    assert lengths is not None
    assert lengths.tolist() == [5] * 12


@pytest.mark.parametrize("past", [["a", "b"], [{"item": "a", "time": 1}, {"item": "b", "time": 5}], []])
def test_a_users_answer_becomes_what_followed_his_history(past):
    schema = Schema(model())
    record = as_record({"prompt": json.dumps({"past": past}), "answer": 1}, json.dumps({"next": "c"}), schema, "CC0-1.0")
    assert [event["item"] for event in record.fields["past"]] == [*("a", "b")[: len(past)], "c"]
    rows = schema.rows(record.fields, training=False)
    assert [row["next"] for row in rows] == ([["c"]] if past else [])


def test_a_part_that_stays_empty_is_said():
    with pytest.raises(UserError, match="no history is long enough for the train part"):
        split_last(records([2, 2]), Schema(model()))


@pytest.mark.parametrize(("old", "new", "said"), [
    ("heads: {next: next_item}", "heads: {liked: binary}", "'last' splits histories"),
    ("rare: 1}}}", "rare: 1}}, age: number}", "reads the history alone"),
    ("cell: gru", "directions: 2", "look back only"),
    ("{recurrent: {cell: gru, width: 16, embedding: 16}}", "{mlp: {}}", "does not look back"),
    ("{recurrent: {cell: gru, width: 16, embedding: 16}}", "{transformer: {depth: 1, causal: false}}", "look back only"),
    ("rare: 1}}}", "rare: 1}}, item: {category: {items: pest}}}", "no input of kind events"),
])
def test_what_does_not_go_together_is_said_before_any_work(tmp_path, old, new, said):
    assert old in SPEC
    with pytest.raises(SpecError, match=said):
        write_project(tmp_path, text=SPEC.replace(old, new))
