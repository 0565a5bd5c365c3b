"""Feedback on answers about records -> records with right answers -> a dataset in the fields of the version that answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.data.fields.base import BadValue
from treadle.data.parts import write_part
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
    counts = {part: write_part(draft.path, part, schema, records, training=False)[0] for part, records in parts.items()}
    return {"kind": "records", "parts": {part: {"records": count} for part, count in counts.items()}, "notes": []}
