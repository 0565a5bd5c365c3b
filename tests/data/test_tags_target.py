"""Spans as they come, held against their text, told to tokens of every tokenizer, and told back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows_world import gather, place, source

from treadle.core.errors import UserError
from treadle.data.fields.base import BadValue
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.targets.tags import TagsTarget
from treadle.spec.model import Model

TEXT = "  Ann Lee met Bob in Oslo."
SPANS = [
    {"start": 2, "end": 9, "label": "PERSON"}, {"start": 14, "end": 17, "label": "PERSON"},
    {"start": 21, "end": 25, "label": "PLACE"},
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *LETTERS, *("##" + letter for letter in LETTERS)]
Settings = dict[str, Any]


def schema(text: Settings | None = None, head: Settings | None = None, folder: Path = Path(), rows: Any = None) -> Schema:
    """Fitted on ``rows``, or on the text above, often enough that byte pairs are joined with the spaces before them."""
    made = Schema(Model.model_validate({
        "inputs": {"text": {"text": {"context": 64} | (text or {})}}, "trunk": {"recurrent": {"directions": 2}},
        "heads": {"spans": {"tags": head or {}}},
    }))
    plain = [made.parse(row) for row in rows or 3 * [{"text": TEXT, "spans": SPANS}]]
    made.fit([Record(str(n), fields, "", "MIT", str(n)) for n, fields in enumerate(plain)], folder)
    return made


def target(made: Schema) -> TagsTarget:
    found = made.targets["spans"]
    assert isinstance(found, TagsTarget)
    return found


def certain(made: Schema, fields: dict[str, Any]) -> np.ndarray:
    """What a head that makes no mistake would give."""
    column = made.encode_targets([fields])["spans"]
    tags = column.values[column.values[:, 0] >= 0, 0]
    return np.stack([np.maximum(tags, 1), np.full(len(tags), 0.5)], -1)[None]


def told_of(made: Schema, fields: dict[str, Any]) -> dict[str, Any]:
    (answer,) = target(made).answers(certain(made, fields))
    return target(made).about(answer, fields)


def with_vocabulary(folder: Path) -> dict[str, Any]:
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    return {"tokenizer": {"file": "vocab.txt"}}


TOKENIZERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bpe": lambda folder: {"tokenizer": {"bpe": 300}}, "words": lambda folder: {"tokenizer": {"words": 50}},
    "characters": lambda folder: {"tokenizer": {"characters": 60}},
    "lower": lambda folder: {"tokenizer": {"words": 50}, "lower": True},
    "word pieces": with_vocabulary,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_spans_come_back_through_every_tokenizer(kind: str, tmp_path: Path) -> None:
    made = schema(TOKENIZERS[kind](tmp_path), folder=tmp_path)
    for text, spans in (
        (TEXT, SPANS), ("🙂 Ann 🙂 Bob 🙂", [{"start": 2, "end": 5, "label": "PLACE"}, {"start": 8, "end": 11, "label": "PERSON"}]),
        ("İİİ Ann İi.", [{"start": 4, "end": 7, "label": "PERSON"}, {"start": 8, "end": 10, "label": "PLACE"}]),
        ("Ann", [{"start": 0, "end": 3, "label": "PLACE"}]), ("", []), ("nothing", []),
    ):
        fields = made.parse({"text": text, "spans": spans})
        told = told_of(made, fields)
        found = [{key: span[key] for key in ("start", "end", "label")} for span in told["answer"]]
        assert found == spans
        assert [span["text"] for span in told["answer"]] == [text[span["start"] : span["end"]] for span in spans]
        assert "read" not in told


def test_as_many_tags_as_the_input_reads_tokens(tmp_path: Path) -> None:
    for text in (with_vocabulary(tmp_path), {"tokenizer": {"bpe": 300}}):
        made = schema(text | {"context": 8}, folder=tmp_path)
        fields = made.parse({"text": TEXT * 3, "spans": []})
        ids, rows = made.encode_inputs([fields])["text"].values, made.encode_targets([fields])["spans"].values
        assert len(ids) == len(rows) == 8
        marks = target(made).text.marks
        assert (rows[:, 0] == 0).tolist() == [number < marks[0] or number >= 8 - marks[1] for number in range(8)]
        assert target(made).layout.options is not None
        assert target(made).layout.options["marks"] == list(marks) == ([1, 1] if "file" in str(text) else [0, 0])


def test_a_row_of_numbers_is_tokens_then_spans() -> None:
    made = schema({"tokenizer": {"words": 50}})
    rows = made.encode_targets([made.parse({"text": TEXT, "spans": SPANS})])["spans"].values
    assert target(made).labels == ["PERSON", "PLACE"]
    assert rows.tolist() == [
        [2, 2, 5], [3, 6, 9], [1, 10, 13], [2, 14, 17], [1, 18, 20], [4, 21, 25], [1, 25, 26],
        [-1, 2, 9], [-1, 14, 17], [-2, 21, 25],
    ]
    unseen = made.parse({"text": "Ann", "spans": [{"start": 0, "end": 3, "label": "PET"}]})
    assert made.encode_targets([unseen])["spans"].values.tolist() == [[0, 0, 3], [-3, 0, 3]]
    assert made.encode_targets([{"text": "Ann", "spans": None}])["spans"].values.tolist() == [[0, 0, 3]]


@pytest.mark.parametrize(("spans", "reason"), [
    ([{"start": 3, "end": 3, "label": "A"}], "empty span"), ([{"start": 3, "end": 2, "label": "A"}], "empty span"),
    ([{"start": 0, "end": 27, "label": "A"}], "span outside the text"),
    ([{"start": -1, "end": 2, "label": "A"}], "span outside the text"),
    ([{"start": 4, "end": 8, "label": "A"}, {"start": 2, "end": 5, "label": "B"}], "overlapping spans"),
    ([{"start": 2, "end": 5, "label": "A", "text": "Bob"}], "span of another text"),
    ([{"start": "2", "end": 5, "label": "A"}], "not spans"), ([{"start": True, "end": 5, "label": "A"}], "not spans"),
    ([{"start": 1.5, "end": 5, "label": "A"}], "not spans"), ([{"start": 1, "end": 5, "label": " "}], "not spans"),
    ([{"begin": 1, "end": 5, "label": "A"}], "not spans"), (["Ann"], "not spans"), ({"start": 1}, "not spans"), ("[1", "not spans"),
])
def test_spans_that_cannot_be_are_set_aside_with_a_reason(spans: Any, reason: str) -> None:
    with pytest.raises(BadValue) as raised:
        schema().parse({"text": TEXT, "spans": spans})
    assert raised.value.reason == reason
    assert raised.value.detail.startswith("spans: ")


def test_what_is_missing_is_no_answer_and_an_empty_list_is_one() -> None:
    made = schema()
    for raw in (None, "", "  ", "null", float("nan")):
        assert made.parse({"text": TEXT, "spans": raw})["spans"] is None
    assert made.parse({"text": TEXT, "spans": "[]"})["spans"] == []


@given(st.text(max_size=40))
def test_any_text_is_spans_or_a_bad_value(raw: str) -> None:
    made = Schema(Model.model_validate({
        "inputs": {"text": {}}, "trunk": {"recurrent": {"directions": 2}}, "heads": {"spans": "tags"},
    }))
    try:
        assert isinstance(made.targets["spans"].parse(raw), (list, type(None)))
    except BadValue as error:
        reason = error.reason
    else:
        reason = "not spans"
    assert reason == "not spans"


def test_other_names_for_the_parts_of_a_span_and_our_own_besides() -> None:
    made = schema(head={"keys": {"start": "from", "end": "to", "label": "kind", "text": "value"}}, rows=[
        {"text": "Ann", "spans": [{"from": 0, "to": 3, "kind": "PERSON", "value": "Ann"}]},
    ])
    theirs = made.parse({"text": "Ann", "spans": [{"from": 0.0, "to": 3, "kind": "PERSON", "value": "Ann", "probability": 1}]})
    assert theirs["spans"] == [{"start": 0, "end": 3, "label": "PERSON"}]
    assert made.parse(theirs) == theirs
    with pytest.raises(BadValue, match="span of another text"):
        made.parse({"text": "Ann", "spans": [{"from": 0, "to": 2, "kind": "PERSON", "value": "Ann"}]})
    with pytest.raises(BadValue, match="a span without 'from'; it has 'begin', 'to', 'kind'"):
        made.parse({"text": "Ann", "spans": [{"begin": 0, "to": 2, "kind": "PERSON"}]})


def test_a_part_without_a_span_is_told() -> None:
    with pytest.raises(UserError, match="no record of the train part has a span"):
        schema(rows=[{"text": "a", "spans": []}])


def test_what_cannot_be_found_is_told(tmp_path: Path) -> None:
    rows = [
        {"text": "anna lee", "spans": [{"start": 0, "end": 3, "label": "A"}]},
        {"text": "a b c d e f g h i j k", "spans": [{"start": 20, "end": 21, "label": "A"}, {"start": 0, "end": 1, "label": "A"}]},
        {"text": "to <EMAIL>", "spans": [{"start": 3, "end": 10, "label": "A"}]},
    ]
    made = schema({"tokenizer": {"words": 50}, "context": 8}, rows=rows)
    field = target(made)
    notes = field.remarks([field.value(made.parse(row)) for row in rows])
    assert notes[0] == (
        "1 of 3 texts are longer than 8 tokens, of which the beginning is read: "
        "1 of 4 spans of 'spans' stand behind it and cannot be found"
    )
    assert notes[1].startswith("1 of 4 spans of 'spans' do not begin and end where tokens do, such as 'ann'")
    assert notes[2].startswith("1 of 4 spans of 'spans' hold a placeholder such as <EMAIL>")
    assert field.remarks([field.value(made.parse({"text": "ann lee", "spans": SPANS[:0]}))]) == []
    fields = made.parse(rows[1])
    told = told_of(made, fields)
    assert ([span["start"] for span in told["answer"]], told["read"]) == ([0], 15)


def test_the_probability_of_a_span_is_that_of_all_its_tags() -> None:
    made = schema({"tokenizer": {"words": 50}})
    fields = made.parse({"text": TEXT, "spans": SPANS})
    assert [span["probability"] for span in told_of(made, fields)["answer"]] == [0.25, 0.5, 0.5]


def test_it_is_restored_from_its_state() -> None:
    made = schema()
    again = schema(rows=[{"text": "a", "spans": [{"start": 0, "end": 1, "label": "OTHER"}]}])
    again.inputs["text"].restore(made.inputs["text"].state())
    again.targets["spans"].restore(json.loads(json.dumps(made.targets["spans"].state())))
    assert again.targets["spans"].layout == made.targets["spans"].layout


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_sources_keep_the_spaces_that_spans_count(name: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": TEXT, "spans": SPANS, "sort": " a "},
        {"text": "Ann", "spans": [{"start": 0, "end": 4, "label": "X"}], "sort": "a"},
        {"text": "Ann", "spans": None, "sort": "a"}, {"text": "Ann", "spans": [], "sort": "b"},
    ]
    if name == "rows.csv":
        quoted = [[row["text"], "" if row["spans"] is None else json.dumps(row["spans"]), row["sort"]] for row in rows]
        lines = ["text,spans,sort", *(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in quoted)]
        (tmp_path / name).write_text("\n".join(lines))
    else:
        (tmp_path / name).write_text(json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows)))
    at = place(tmp_path, {"text": "text"}, {"spans": "tags"}, by="sort")
    records, aside = gather(source(table=name), at)
    assert [record.fields for record in records] == [{"text": TEXT, "spans": SPANS}, {"text": "Ann", "spans": []}]
    assert [record.group for record in records] == ["sort=a", "sort=b"]
    first = 3 if name == "rows.csv" else 2  # below the header
    assert [(item.reason, item.source) for item in aside] == [
        ("span outside the text", f"{name}:{first}"), ("no answer", f"{name}:{first + 1}"),
    ]


def test_the_spans_of_presidio_are_read_as_they_are(data_folder: Callable[[str], Path], tmp_path: Path) -> None:
    file = data_folder("pii-presidio-synth") / "synth_dataset_v2.json"
    keys = {"start": "start_position", "end": "end_position", "label": "entity_type", "text": "entity_value"}
    at = place(tmp_path, {"text": {"column": "full_text"}}, {"spans": {"tags": {"keys": keys}}}, by="template_id")
    records, aside = gather(source(table=str(file)), at)
    assert (len(records), len(aside)) == (1500, 0)
    assert sum(len(record.fields["spans"]) for record in records) == 2863
    assert len({record.group for record in records}) == 209
