"""The record: one example with where it came from, what it may be used under, and what it must not be split from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_OWN = ("id", "source", "licence", "group", "meta")
_ROWS = 512


@dataclass(frozen=True)
class Record:
    """``id`` is the hash of the content, so equal content has equal ids wherever it came from."""

    id: str
    fields: Mapping[str, Any]
    """Named content in plain form, such as ``{"text": ...}`` or ``{"age": 39.0, "photo": {"bytes": ..., "path": ...}}``."""
    source: str
    """Where it came from, for people: a path or a URL."""
    licence: str
    group: str
    """Records of one group are never in two parts of a split."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def with_fields(self, fields: Mapping[str, Any]) -> Record:
        """The same record with other content; its id stays that of what was collected, so that it can be traced."""
        return replace(self, fields=fields)


@dataclass(frozen=True)
class SetAside:
    """A record, or a file that never became one, that is not used, and why."""

    source: str
    reason: str
    """One short word for counting, such as ``binary``."""
    detail: str = ""
    id: str = ""


def content_id(fields: Mapping[str, Any]) -> str:
    """The first 32 hex digits of the SHA-256 of the named content; a file counts by its bytes, not by its path."""
    named = {key: value["bytes"] if isinstance(value, dict) and "bytes" in value else value for key, value in fields.items()}
    text = json.dumps(named, sort_keys=True, ensure_ascii=False, default=_digest)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _digest(content: Any) -> str:
    if not isinstance(content, bytes):
        raise TypeError(f"a record cannot hold {type(content).__name__}")
    return hashlib.sha256(content).hexdigest()


MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An image or a recording at rest."""


def write_records(path: Path, records: Iterable[Record], names: Iterable[str] | Mapping[str, pa.DataType]) -> int:
    """Write Parquet with a column per field of ``names`` beside id, source, licence, group, meta (JSON); gives the count. Columns
    hold text where ``names`` does not say their type.

    The layout is the one that ``datasets.load_dataset("parquet", data_files=...)`` opens.
    """
    types = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, pa.string())
    own = {key: f"record_{key}" if key in types else key for key in _OWN}
    text = pa.string()
    schema = pa.schema([(own["id"], text), *types.items(), *((own[key], text) for key in _OWN[1:])])
    count, rows = 0, []

    def row(record: Record) -> dict[str, Any]:
        values = {own[key]: getattr(record, key) for key in _OWN[:-1]}
        return values | {own["meta"]: json.dumps(dict(record.meta), sort_keys=True)} | dict(record.fields)

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for record in records:
            rows.append(row(record))
            count += 1
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return count


def read_records(path: Path) -> Iterator[Record]:
    """The records of a Parquet file that ``write_records`` wrote, in order."""
    with pq.ParquetFile(path) as file:
        columns = set(file.schema_arrow.names)
        own = {key: f"record_{key}" if f"record_{key}" in columns else key for key in _OWN}
        for batch in file.iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                values = {key: row.pop(own[key]) for key in _OWN}
                meta = json.loads(values.pop("meta"))
                yield Record(fields=row, meta=meta, **values)


def write_set_aside(path: Path, items: Iterable[SetAside]) -> None:
    """The quarantine file: source, reason, detail, id as strings."""
    schema = pa.schema([(name, pa.string()) for name in ("source", "reason", "detail", "id")])
    rows = [{"source": i.source, "reason": i.reason, "detail": i.detail, "id": i.id} for i in items]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")
