"""Rows as they come -> records: missing values, replaced texts, histories, what the schema cannot read."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from treadle.core.errors import SourceError
from treadle.data.fields.base import BadValue
from treadle.data.fields.text import parse_text
from treadle.data.record import Record, SetAside, content_id
from treadle.data.schema import Schema
from treadle.data.sources.base import Place, Rows
from treadle.data.sources.history import LEFT, histories
from treadle.spec.data import HubSource, SqlSource, TableSource, source_name

RowsSource = TableSource | SqlSource | HubSource

_FIRST = 100
"""Rows of which one must have a column, for the column to be there: a JSON object may lack what is not known."""


def to_records(rows: Rows, spec: RowsSource, place: Place) -> Iterator[Record | SetAside]:
    """Each (place, row) as a record of the schema's columns, or set aside with the reason. Raises ``SourceError`` for a column that
    is not there at all."""
    plain = prepared_rows(rows, spec, place.schema)
    first = list(itertools.islice(plain, _FIRST))
    found = [(where, row) for where, row in first if not isinstance(row, SetAside)]
    if found:
        check_columns(dict.fromkeys(name for _, row in found for name in row), found[0][0], place)
    meta = {"pattern": source_name(spec)} | ({"part": spec.part} if spec.part else {})
    for where, row in itertools.chain(first, plain):
        yield row if isinstance(row, SetAside) else as_record(row, where, spec.licence, place, meta)


def prepared_rows(rows: Rows, spec: RowsSource, schema: Schema | None) -> Rows:
    """The rows with missing values, replaced texts, histories and the limit as the source's section says."""
    plain = cells(rows, spec, schema.whole if schema else frozenset())
    if spec.history:
        plain = histories(plain, spec.history, source_name(spec))
    return itertools.islice(plain, spec.limit)


def as_record(row: Mapping[str, Any], where: str, licence: str, place: Place, meta: Mapping[str, Any]) -> Record | SetAside:
    """One row through the schema, or as running text."""
    try:
        fields = _running(row, place) if place.schema is None else place.schema.parse(row)
    except BadValue as error:
        return SetAside(where, error.reason, error.detail)
    for column in sorted(place.schema.answers) if place.schema else ():
        if fields.get(column) is None:
            return SetAside(where, "no answer", column)
    id = content_id(fields)
    group = id
    if place.by not in ("file", "folder", "last"):
        if row.get(place.by) is None:
            return SetAside(where, "no group", place.by)
        group = f"{place.by}={row[place.by]}"
    if LEFT in row:
        meta = {**meta, "left": row[LEFT]}
    whole = {key: str(value) if isinstance(value, date) else value for key, value in row.items()}
    whole = {k: v for k, v in whole.items() if isinstance(v, (str, int, float)) or (isinstance(v, dict) and "bytes" in v)}
    return Record(id, fields, where, licence, group, {**meta, "row": content_id(whole)[:16]})


def _running(row: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Running text. Raises ``BadValue`` where there is none, or too much."""
    text = " ".join(part for column in place.columns or (place.field,) if (part := parse_text(row.get(column))))
    size = len(text.encode("utf-8"))
    if size > place.max_size:
        raise BadValue("too long", f"{size} bytes")
    if not text:
        raise BadValue("empty")
    return {place.field: text}


def cells(rows: Rows, spec: RowsSource, whole: frozenset[str]) -> Rows:
    """Rows with spaces around values taken off, but in the columns ``whole``, texts replaced, and missing values as None, as
    ``spec`` says."""
    missing = frozenset(spec.missing)
    for where, row in rows:
        if not isinstance(row, SetAside):
            row = {key: _cell(value, missing, spec.replace.get(key), key in whole) for key, value in row.items()}
        yield where, row


def _cell(value: Any, missing: frozenset[str], replace: Mapping[str, str] | None, whole: bool) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if not isinstance(value, str):
        return value
    bare = value.strip()
    if replace and bare in replace:
        value = bare = replace[bare]
    return None if bare in missing else value if whole else bare


def check_columns(row: Mapping[str, Any], where: str, place: Place) -> None:
    """Raise ``SourceError`` where ``row`` lacks a column that the model or the split needs."""
    absent = [column for column in place.wanted if column not in row]
    if absent:
        near = {column: found[0] for column in absent if (found := difflib.get_close_matches(column, list(row), n=1))}
        meant = [f"did you mean {right!r} for {wrong!r}?" for wrong, right in near.items()]
        message = f"{place.key}: {where} has no column {', '.join(map(repr, absent))}"
        raise SourceError(message, cure=" ".join([*meant, f"its columns are: {', '.join(list(map(str, row))[:40])}"]))
