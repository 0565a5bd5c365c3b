"""Rows with named columns from files: CSV and its like, JSON, JSON Lines, Parquet, Excel. Each row is one record."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside
from treadle.data.sources.base import Place
from treadle.data.sources.globs import parse_pattern, walk
from treadle.data.sources.rows import Row, to_records
from treadle.spec.data import TableSource

csv.field_size_limit(10_000_000)
_SNIFFED = 65_536  # characters that the delimiter is found from



def read_table(spec: TableSource, place: Place) -> Iterator[Record | SetAside]:
    """The rows of every file that ``spec.table`` matches, in order. Raises ``SourceError``."""
    return to_records(table_rows(spec, place), spec, place)


def table_rows(spec: TableSource, place: Place) -> Iterator[tuple[str, Row]]:
    """(where it stands, the row as it comes, or why it is none)."""
    pattern = parse_pattern(spec.table, place.folder, place.key, "table")
    found = [item for item in walk(pattern) if not item.problem]
    if not found:
        cure = f"put it below {pattern.root}, or mend the path"
        raise SourceError(f"{place.key}.table: {spec.table!r} matches no file", cure=cure)
    for item in found:
        source = "/".join(part for part in (pattern.label, item.relative) if part)
        yield from _file_rows(Path(item.path), source, spec, place)


def _file_rows(path: Path, source: str, spec: TableSource, place: Place) -> Iterator[tuple[str, Row]]:
    endings = [suffix.lower() for suffix in path.suffixes]
    ending = next((suffix for suffix in reversed(endings) if suffix != ".gz"), "")
    try:
        if ending == ".parquet":
            yield from _numbered(source, _parquet(path))
        elif ending in (".xlsx", ".xlsm"):
            yield from _numbered(source, _excel(path, spec.sheet, place))
        elif ending in (".json", ".jsonl", ".ndjson"):
            text = _text(path, spec.encoding, endings)
            yield from _json_lines(source, text) if ending != ".json" else _numbered(source, _json(text))
        elif ending in (".csv", ".tsv", ".txt", ".data", ".test"):
            yield from _delimited(source, _text(path, spec.encoding, endings), spec, place)
        else:
            message = f"{place.key}.table: {source} ends in {ending or 'nothing'}"
            raise SourceError(message, cure="give .csv, .tsv, .txt, .json, .jsonl, .parquet or .xlsx")
    except UnicodeDecodeError as error:
        cure = "say which encoding it has, as in 'encoding: latin-1'; a file of two encodings must be mended first"
        message = f"{place.key}.table: {source} is not {spec.encoding}: byte {error.start}: {error.reason}"
        raise SourceError(message, cure=cure) from None
    except (OSError, EOFError, pa.ArrowException) as error:
        raise SourceError(f"{place.key}.table: {source} cannot be read: {error}", cure="check the file") from None


def _text(path: Path, encoding: str, endings: list[str]) -> str:
    data = gzip.decompress(path.read_bytes()) if ".gz" in endings else path.read_bytes()
    return data.decode(encoding).removeprefix("\ufeff")


def _numbered(source: str, rows: Iterator[Mapping[str, Any]]) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        yield f"{source}:{number}", row


def _delimited(source: str, text: str, spec: TableSource, place: Place) -> Iterator[tuple[str, Row]]:
    """CSV (RFC 4180). A row with more or fewer cells than the header is set aside."""
    reader = csv.reader(io.StringIO(text), delimiter=spec.delimiter or _delimiter(text), skipinitialspace=True)
    names = spec.columns
    if names is None:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names) or not all(names):
            message = f"{place.key}.table: the first line of {source} names a column twice, or one not at all"
            raise SourceError(message, cure="mend it, or name the columns: 'columns: [a, b, ...]'")
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f"{source}:{reader.line_num}", SetAside(f"{source}:{reader.line_num}", "not CSV", str(error))
            continue
        if cells is None:
            return
        where = f"{source}:{reader.line_num}"
        if not cells or (cells == [""] and len(names) > 1):
            continue  # an empty line is no row
        if len(cells) != len(names):
            yield where, SetAside(where, "ragged row", f"{len(cells)} cells, the header has {len(names)}")
        else:
            yield where, dict(zip(names, cells, strict=True))


def _delimiter(text: str) -> str:
    """The one of , ; tab | that cuts the first lines into equally many cells, and into most."""
    lines = [line for line in text[:_SNIFFED].splitlines()[:50] if line.strip()]
    best, most = ",", 1
    for mark in ",\t;|":
        counts = [len(row) for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
        alike = max(set(counts), key=counts.count) if counts else 1
        if alike > most and counts.count(alike) >= 0.9 * len(counts):
            best, most = mark, alike
    return best


def _json(text: str) -> Iterator[Mapping[str, Any]]:
    """A list of objects, or one object whose only list of objects is meant."""
    found = json.loads(text)
    if isinstance(found, Mapping):
        lists = [part for part in found.values() if isinstance(part, list) and part and isinstance(part[0], Mapping)]
        found = lists[0] if len(lists) == 1 else [found]
    yield from found


def _json_lines(source: str, text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            yield where, SetAside(where, "not JSON", str(error))
            continue
        yield where, row if isinstance(row, dict) else SetAside(where, "not JSON", "not an object")


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _excel(path: Path, sheet: str | None, place: Place) -> Iterator[Mapping[str, Any]]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise SourceError(f"{place.key}.table: reading Excel needs openpyxl", cure="pip install 'treadle[excel]'") from None
    book = load_workbook(path, read_only=True, data_only=True)
    if sheet is not None and sheet not in book.sheetnames:
        raise SourceError(f"{place.key}.sheet: {path.name} has no sheet {sheet!r}", cure=f"it has: {', '.join(book.sheetnames)}")
    rows = (book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True)
    names = [re.sub(r"\s+", " ", str(cell)).strip() if cell is not None else "" for cell in next(rows, ())]
    for row in rows:
        if any(cell is not None for cell in row):
            yield {name: cell for name, cell in zip(names, row, strict=False) if name}
