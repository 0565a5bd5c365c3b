"""Feedback on answers about records -> records with right answers -> a dataset in the fields of the version that answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from treadle.data.columns import save_column
from treadle.data.fields.base import BadValue
from treadle.data.record import Record, content_id
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.store.artifacts import Artifact, Draft


def as_record(row: Mapping[str, Any], answer: str, schema: Schema, licence: str) -> Record:
    """One piece of feedback, ``answer`` being the heads' right answers as JSON. Raises ``BadValue``."""
    try:
        given = json.loads(row["prompt"])
        right = json.loads(answer)
    except ValueError as error:
        raise BadValue("unreadable", str(error)) from None
    for name, value in right.items():
        if name in schema.targets:
            given = given | schema.targets[name].answered(given, value)
    plain = schema.parse(given)
    for column in sorted(schema.answers):
        if plain.get(column) is None:
            raise BadValue("no answer", column)
    group = content_id({column: value for column, value in plain.items() if column not in schema.answers})
    return Record(content_id(plain), plain, f"answer {row['answer']}", licence, group)


def write_parts(draft: Draft, base: Artifact, parts: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Encode every part with what the version ``base`` fitted; gives the dataset's counts."""
    schema = Schema.load(base.path)
    shutil.copy(base.path / FIELDS_FILE, draft.path)
    for part, records in parts.items():
        asked = [(record, row) for record in records for row in schema.rows(record.fields, training=False)]
        rows = [row for _, row in asked]
        for kind, columns in (("inputs", schema.encode_inputs(rows)), ("heads", schema.encode_targets(rows))):
            for name, column in columns.items():
                save_column(draft.path, part, f"{kind}.{name}", column)
        listed = {"id": [record.id for record, _ in asked], "source": [record.source for record, _ in asked]}
        pq.write_table(pa.table(listed), draft.path / f"{part}.records.parquet")
    return {"kind": "records", "parts": {part: {"records": len(records)} for part, records in parts.items()}, "notes": []}
