"""Rows with named columns from files: CSV and its like, JSON, JSON Lines, Parquet, Excel. Each row is one record."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from treadle.core.errors import SourceError
from treadle.data.record import SetAside
from treadle.data.sources.base import Place, Row, Rows
from treadle.data.sources.globs import parse_pattern, walk
from treadle.spec.data import TableSource

csv.field_size_limit(10_000_000)
_SNIFFED = 50  # rows that the delimiter is found from
_END = "\0end\0"
"""A line of its own behind the last one: found inside a cell, it tells of a quote that was never closed."""
DELIMITERS = ",\t;|"


def table_rows(spec: TableSource, place: Place) -> Rows:
    """(where it stands, the row as it comes, or why it is none) of every file that ``spec.table`` matches, in order. Raises
    ``SourceError``."""
    for path, source in table_files(spec, place):
        yield from _file_rows(path, source, spec, place)


def table_files(spec: TableSource, place: Place) -> list[tuple[Path, str]]:
    """(path, what it is called in records) of every file. Raises ``SourceError`` where there is none."""
    pattern = parse_pattern(spec.table, place.folder, place.key, "table")
    found = [item for item in walk(pattern) if not item.problem]
    if not found:
        cure = f"put it below {pattern.root}, or mend the path"
        raise SourceError(f"{place.key}.table: {spec.table!r} matches no file", cure=cure)
    return [(item.path, "/".join(part for part in (pattern.label, item.relative) if part)) for item in found]


def _file_rows(path: Path, source: str, spec: TableSource, place: Place) -> Rows:
    packed = path.suffix.lower() == ".gz"
    ending = (Path(path.stem) if packed else path).suffix.lower()
    try:
        if ending in (".csv", ".tsv", ".txt", ".data", ".test"):
            with _open(path, packed, spec) as stream:
                yield from _delimited(source, stream, spec, place)
        elif ending in (".jsonl", ".ndjson"):
            with _open(path, packed, spec) as stream:
                yield from _json_lines(source, stream)
        elif ending == ".json":
            with _open(path, packed, spec) as stream:
                yield from _json(source, stream.read())
        elif ending == ".parquet":
            yield from _numbered(source, _parquet(path))
        elif ending in (".xlsx", ".xlsm"):
            yield from _excel(path, source, spec.sheet, place)
        else:
            message = f"{place.key}.table: {source} ends in {ending or 'nothing'}"
            raise SourceError(message, cure="give .csv, .tsv, .txt, .json, .jsonl, .parquet or .xlsx")
    except UnicodeError:
        cure = "say which encoding it has, as in 'encoding: latin-1'; a file of two encodings must be mended first"
        message = f"{place.key}.table: {source} is not {spec.encoding}: {_bad_byte(path, packed, spec.encoding)}"
        raise SourceError(message, cure=cure) from None
    except json.JSONDecodeError as error:
        message = f"{place.key}.table: {source} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise SourceError(message, cure="mend it; if each line is an object of its own, call it .jsonl") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException) as error:
        raise SourceError(f"{place.key}.table: {source} cannot be read: {error}", cure="check the file") from None


def _open(path: Path, packed: bool, spec: TableSource) -> IO[str]:
    """The text with its line ends as they are, and without a byte order mark."""
    raw: Any = (gzip.open if packed else open)(path, "rb")
    return io.TextIOWrapper(raw, "utf-8-sig" if spec.encoding == "utf-8" else spec.encoding, newline="")


def _bad_byte(path: Path, packed: bool, encoding: str) -> str:
    """Where ``encoding`` fails first."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        start = 0
        while True:
            block = stream.read(1 << 20)
            held = len(decoder.getstate()[0])  # of a character that the block before began
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = start - held + error.start
                return f"byte {at} (0x{error.object[error.start]:02x}): {error.reason}"
            except UnicodeError as error:
                return str(error)
            if not block:
                return "unknown"
            start += len(block)


def _numbered(source: str, rows: Iterable[Mapping[str, Any]]) -> Rows:
    for number, row in enumerate(rows, 1):
        yield f"{source}:{number}", row


def column_names(cells: Sequence[Any], source: str, key: str) -> list[str]:
    """A header's cells as names; a cell without one, such as that of a numbering, is named by its place. Raises ``SourceError``
    for one name twice."""
    plain = [re.sub(r"\s+", " ", str(cell)).strip() if cell is not None else "" for cell in cells]
    names = [name or f"column {number}" for number, name in enumerate(plain, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"{key}.table: the header of {source} names {', '.join(map(repr, twice[:5]))} more than once"
        raise SourceError(message, cure="mend it, or name the columns: 'columns: [a, b, ...]'")
    return names


def _delimited(source: str, stream: IO[str], spec: TableSource, place: Place) -> Rows:
    """CSV (RFC 4180). A row with more or fewer cells than the header, or that is the header again, is set aside."""
    head = list(itertools.islice(stream, 4 * _SNIFFED))
    if any("\0" in line for line in head):
        cure = "say 'encoding: utf-16', if it is text of two bytes a character"
        raise SourceError(f"{place.key}.table: {source} holds NUL bytes, so it is not {spec.encoding} text", cure=cure)
    head[:1] = [line.removeprefix("\ufeff") for line in head[:1]]
    quoting: Any = csv.QUOTE_MINIMAL if spec.quoted else csv.QUOTE_NONE
    mark = spec.delimiter or find_delimiter(head, spec.quoted)
    reader = csv.reader(itertools.chain(head, stream, [_END]), delimiter=mark, skipinitialspace=True, quoting=quoting)
    names, header = spec.columns, None
    while True:
        where = f"{source}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except csv.Error as error:
            yield where, SetAside(where, "not CSV", str(error))
            continue
        if cells == [_END]:
            return
        if cells and cells[-1].endswith(_END):
            cure = "mend it, or say 'quoted: false' if quotes are signs like others there"
            raise SourceError(f"{place.key}.table: the quote that opens in {where} is never closed", cure=cure)
        if not cells or (cells == [""] and len(names or "ab") > 1):
            continue  # an empty line is no row
        if names is None:
            names, header = column_names(cells, source, place.key), cells
        elif len(cells) != len(names):
            yield where, SetAside(where, "ragged row", f"{len(cells)} cells, the header has {len(names)}")
        elif cells == header:
            yield where, SetAside(where, "header again")
        else:
            yield where, dict(zip(names, cells, strict=True))


def find_delimiter(lines: Sequence[str], quoted: bool = True) -> str:
    """The one of , ; tab | that cuts the first rows into equally many cells, and into most."""
    best, most = ",", 1
    for mark in DELIMITERS:
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        try:
            counts = [len(row) for row in itertools.islice((row for row in reader if row), _SNIFFED)]
        except csv.Error:
            continue
        alike = max(set(counts), key=counts.count) if counts else 1
        if alike > most and counts.count(alike) >= 0.9 * len(counts):
            best, most = mark, alike
    return best


def _json(source: str, text: str) -> Rows:
    """A list of objects, or one object whose only list of objects is meant."""
    found = json.loads(text)
    if isinstance(found, Mapping):
        lists = [part for part in found.values() if isinstance(part, list) and part and isinstance(part[0], Mapping)]
        found = lists[0] if len(lists) == 1 else [found]
    for number, item in enumerate(found if isinstance(found, list) else [found], 1):
        where = f"{source}:{number}"
        yield where, _flat(item, where)


def _json_lines(source: str, stream: IO[str]) -> Rows:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            row = _flat(json.loads(line.removeprefix("\ufeff")), where)
        except ValueError as error:
            row = SetAside(where, "not JSON", str(error))
        yield where, row


def _flat(item: Any, where: str) -> Row:
    """An object with what is nested in it under dotted names too: ``{"user": {"age": 3}}`` has the column ``user.age``."""
    if not isinstance(item, dict):
        return SetAside(where, "not JSON", "not an object")
    found = dict(item)
    for name, value in item.items():
        if isinstance(value, dict):
            inner = _flat(value, where)
            assert not isinstance(inner, SetAside)
            found |= {f"{name}.{key}": part for key, part in inner.items() if f"{name}.{key}" not in item}
    return found


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()


def _excel(path: Path, source: str, sheet: str | None, place: Place) -> Rows:
    """The rows below the header: the first row that has more than a title in it."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise SourceError(f"{place.key}.table: reading Excel needs openpyxl", cure="pip install 'treadle[excel]'") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (KeyError, ValueError, TypeError) as error:
        raise SourceError(f"{place.key}.table: {source} is no Excel file: {error}", cure="save it again as .xlsx") from None
    if sheet is not None and sheet not in book.sheetnames:
        raise SourceError(f"{place.key}.sheet: {path.name} has no sheet {sheet!r}", cure=f"it has: {', '.join(book.sheetnames)}")
    rows = enumerate((book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True), 1)
    filled = ((number, row) for number, row in rows if any(cell is not None for cell in row))
    first = list(itertools.islice(filled, 20))
    wide = max((sum(cell is not None for cell in row) for _, row in first), default=0)
    start = next((n for n, (_, row) in enumerate(first) if wide < 2 or sum(cell is not None for cell in row) > 1), 0)
    if not first:
        return
    names = column_names(first[start][1], source, place.key)
    for number, row in itertools.chain(first[start + 1 :], filled):
        yield f"{source}:{number}", dict(zip(names, row, strict=False))
