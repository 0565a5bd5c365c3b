"""Rows as they come -> records: missing values, replaced texts, histories, what the schema cannot read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from treadle.core.errors import SourceError
from treadle.data.fields.base import BadValue
from treadle.data.record import Record, SetAside, content_id
from treadle.data.sources.base import Place
from treadle.spec.data import HubSource, SqlSource, TableSource, source_name

RowsSource = TableSource | SqlSource | HubSource


Row = Mapping[str, Any] | SetAside
"""A row as it comes, or why it is none."""


def to_records(rows: Iterable[tuple[str, Row]], spec: RowsSource, place: Place) -> Iterator[Record | SetAside]:
    """Each (place, row) as a record of the schema's columns, or set aside with the reason. Raises ``SourceError`` for a column that
    is not there at all."""
    plain = cells(rows, spec)
    if spec.history:
        plain = _histories(plain, spec)
    meta = {"pattern": source_name(spec)} | ({"part": spec.part} if spec.part else {})
    checked = False
    for number, (where, row) in enumerate(plain):
        if spec.limit is not None and number >= spec.limit:
            return
        if isinstance(row, SetAside):
            yield row
            continue
        if not checked:
            check_columns(row, where, place)
            checked = True
        yield as_record(row, where, spec.licence, place, meta)


def as_record(row: Mapping[str, Any], where: str, licence: str, place: Place, meta: Mapping[str, Any]) -> Record | SetAside:
    """One row through the schema."""
    assert place.schema is not None
    try:
        fields = place.schema.parse(row)
    except BadValue as error:
        return SetAside(where, error.reason, error.detail)
    for column in sorted(place.schema.answers):
        if fields.get(column) is None:
            return SetAside(where, "no answer", column)
    id = content_id(fields)
    group = id
    if place.by not in ("file", "folder"):
        if row.get(place.by) is None:
            return SetAside(where, "no group", place.by)
        group = f"{place.by}={row[place.by]}"
    whole = {k: v for k, v in row.items() if isinstance(v, (str, int, float)) or (isinstance(v, dict) and "bytes" in v)}
    return Record(id, fields, where, licence, group, {**meta, "row": content_id(whole)[:16]})


def cells(rows: Iterable[tuple[str, Row]], spec: RowsSource) -> Iterator[tuple[str, Row]]:
    """Rows with spaces around values taken off, texts replaced, and missing values as None, as ``spec`` says."""
    missing = frozenset(spec.missing)
    for where, row in rows:
        if not isinstance(row, SetAside):
            row = {key: _cell(value, missing, spec.replace.get(key)) for key, value in row.items()}
        yield where, row


def _cell(value: Any, missing: frozenset[str], replace: Mapping[str, str] | None) -> Any:
    if not isinstance(value, str):
        return value
    value = value.strip()
    if replace and value in replace:
        value = replace[value]
    return None if value in missing else value


def check_columns(row: Mapping[str, Any], where: str, place: Place) -> None:
    """Raise ``SourceError`` where ``row`` lacks a column that the model or the split needs."""
    assert place.schema is not None
    wanted = [*place.schema.by_column, *([place.by] if place.by not in ("file", "folder") else [])]
    absent = [column for column in wanted if column not in row]
    if absent:
        have = ", ".join(map(str, list(row)[:40]))
        message = f"{place.key}: {where} has no column {', '.join(map(repr, absent))}"
        raise SourceError(message, cure=f"its columns are: {have}")


def _histories(rows: Iterable[tuple[str, Row]], spec: RowsSource) -> Iterator[tuple[str, Row]]:
    """One row per user, in the order of their first rows."""
    wanted = spec.history
    assert wanted is not None
    found: dict[str, list[tuple[float, int, Any]]] = {}
    for number, (where, row) in enumerate(rows):
        if isinstance(row, SetAside):
            yield where, row
            continue
        user, item = row.get(wanted.user), row.get(wanted.item)
        if user is None or item is None:
            yield where, SetAside(where, "no user or item", f"{wanted.user}, {wanted.item}")
            continue
        try:
            time = float(row[wanted.time]) if wanted.time else float(number)
        except (KeyError, TypeError, ValueError):
            yield where, SetAside(where, "no time", str(wanted.time))
            continue
        found.setdefault(str(user), []).append((time, number, item))
    for user, events in found.items():
        where = f"{source_name(spec)} {wanted.user}={user}"
        if len(events) < wanted.min:
            yield where, SetAside(where, "short history", f"{len(events)} rows")
        else:
            yield where, {wanted.user: user, wanted.into: [{"item": str(item), "time": time} for time, _, item in sorted(events)]}
