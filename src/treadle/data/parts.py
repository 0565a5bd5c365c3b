"""A part of a dataset of records at rest: encoded columns, and which record each row is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from treadle.data.columns import Column, save_column
from treadle.data.record import Record
from treadle.data.schema import Schema


def write_part(
    folder: Path, part: str, schema: Schema, records: Sequence[Record], *, training: bool
) -> tuple[int, Mapping[str, Column]]:
    """Encode ``records`` with the fitted ``schema`` and write them: PART.inputs.NAME, PART.heads.NAME, PART.records.parquet. Gives
    the number of rows, of which in ``training`` a record may give several, and the encoded inputs."""
    asked = [(record, row) for record in records for row in schema.rows(record.fields, training)]
    rows = [row for _, row in asked]
    inputs = schema.encode_inputs(rows)
    for kind, columns in (("inputs", inputs), ("heads", schema.encode_targets(rows))):
        for name, column in columns.items():
            save_column(folder, part, f"{kind}.{name}", column)
    listed = {"id": [record.id for record, _ in asked], "source": [record.source for record, _ in asked]}
    pq.write_table(pa.table(listed), folder / f"{part}.records.parquet")
    return len(rows), inputs
