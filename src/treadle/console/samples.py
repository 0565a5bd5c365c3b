"""The data that was prepared: its records page by page, pictures shown, and what was set aside with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk, number_of
from treadle.console.media import shown
from treadle.core.errors import RequestError
from treadle.report.gather import gather
from treadle.spec.units import format_size

_EACH = 20
"""Records of a page."""
_LONGEST = 1200
"""Characters of a value that are shown."""
_OWN = ("id", "source", "licence", "group", "meta")


def add(desk: Desk) -> None:
    """Records, and what was set aside."""

    def browse(request: Request) -> Response:
        found = [manifest for manifest in desk.store.all() if manifest["kind"] == "corpus"]
        if not found:
            return desk.page(request, "data.html", "Data", corpus=None)
        usual = gather(desk.project, desk.store, desk.ledger).corpus
        chosen = request.query_params.get("corpus") or (usual or found[-1])["id"]
        corpus = next((manifest for manifest in found if manifest["id"] == chosen), None)
        if corpus is None:
            raise RequestError(f"there is no corpus {chosen[:80]!r}", status=404, cure="choose one under Data")
        folder, skip, reason = desk.store.folder(chosen), number_of(request, "skip"), request.query_params.get("reason", "")
        aside = request.query_params.get("aside") == "1"
        total, rows = _set_aside(folder, skip, reason) if aside else _records(folder, skip)
        return desk.page(
            request, "data.html", "Data", corpus=corpus, corpora=found[::-1], aside=aside, reason=reason, rows=rows, skip=skip,
            total=total, each=_EACH, reasons=_reasons(folder),
        )

    desk.get("/console/data", browse)


def _rows(path: Path, skip: int, most: int) -> Iterator[dict[str, Any]]:
    """So many rows of a Parquet file from ``skip`` on; whole groups of rows before are passed over unread."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if skip >= size:
                skip -= size
                continue
            for row in file.read_row_group(group).slice(skip, most).to_pylist():
                yield row
                most -= 1
            skip = 0
            if most <= 0:
                return


def _records(folder: Path, skip: int) -> tuple[int, list[dict[str, Any]]]:
    """How many records there are, and those of this page."""
    path = folder / "records.parquet"
    with pq.ParquetFile(path) as file:
        total, columns = file.metadata.num_rows, set(file.schema_arrow.names)
    own = {f"record_{key}" if f"record_{key}" in columns else key: key for key in _OWN}
    rows = []
    for row in _rows(path, skip, _EACH):
        about = {key: row.pop(name) for name, key in own.items()}
        rows.append({**about, "fields": [(name, *_shown(name, value)) for name, value in row.items()]})
    return total, rows


def _shown(name: str, value: Any) -> tuple[Any, str]:
    """A value of a record to be seen or heard, where it can be, and in words."""
    if isinstance(value, Mapping) and "bytes" in value:
        content = value["bytes"] or b""
        return shown(content, name), f"{value.get('path') or 'a file'}, {format_size(len(content))}"
    said = "missing" if value is None else str(value)
    return None, said if len(said) <= _LONGEST else f"{said[:_LONGEST]}… ({len(said):,} characters)"


def _set_aside(folder: Path, skip: int, reason: str) -> tuple[int, list[dict[str, Any]]]:
    """How many were set aside (for ``reason``, if it is not empty), and those of this page."""
    table = pq.read_table(folder / "quarantine.parquet")
    rows = [row for row in table.to_pylist() if not reason or row["reason"] == reason]
    return len(rows), rows[skip : skip + _EACH]


def _reasons(folder: Path) -> list[tuple[str, int]]:
    """Why records were set aside, the most frequent reason first."""
    table = pq.read_table(folder / "quarantine.parquet", columns=["reason"])
    return Counter(table["reason"].to_pylist()).most_common()
