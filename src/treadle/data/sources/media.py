"""Images or recordings: the files of a folder or of an archive, or the items of an IDX file. Each is one record.

Archives are read where they lie, so that no name in them can reach another place on the disk.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside
from treadle.data.sources.base import Place
from treadle.data.sources.globs import Pattern, glob_regex, parse_pattern, walk
from treadle.data.sources.rows import as_record, check_columns
from treadle.spec.data import MediaSource, PixelRecords

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError, NotImplementedError)
"""What the readers of archives raise; RuntimeError and NotImplementedError for a password and for an unknown compression."""


@dataclass(frozen=True)
class Item:
    """A file as it was found: its path below the folder or the archive's root, and its bytes, or why there are none."""

    name: str
    data: bytes = b""
    problem: tuple[str, str] | None = None
    """(reason, detail) for the quarantine."""
    more: Mapping[str, Any] | None = None
    """Fields that came with it."""


def read_media(spec: MediaSource, place: Place) -> Iterator[Record | SetAside]:
    """The items that ``spec.match`` names, in the order of the folder's paths or of the archive.

    Raises ``SourceError`` where there is no such folder or file, where it is damaged as a whole, and where no item matches.
    """
    if place.schema is None:
        cure = "name the field with an answer in model.heads, as in 'label: category'"
        raise SourceError(f"{place.key}: a model of running text reads files, not media", cure=cure)
    path, label = _locate(spec.media, "media", place)
    labels = _Labels(spec, place)
    shape = re.compile(spec.name_is) if spec.name_is else None
    meta = {"pattern": spec.media} | ({"part": spec.part} if spec.part else {})
    count, checked = 0, False
    for item in _unpacked(_items(path, spec, place), spec.records):
        count += 1
        where = f"{label}/{item.name}".lstrip("/")
        row = _row(item, spec, shape, labels)
        if isinstance(row, tuple):
            yield SetAside(where, *row)
            continue
        if not checked:
            check_columns(row, where, place)
            checked = True
        yield as_record(row, where, spec.licence, place, meta)
    if not count:
        cure = f"it should match {' or '.join(map(repr, spec.match))}: mend the path or the globs"
        raise SourceError(f"{place.key}.media: {spec.media!r} holds no item that matches", cure=cure)
    yield from labels.left()


def _locate(text: str, field: str, place: Place) -> tuple[Path, str]:
    """The folder or file that ``text`` names, and what people call it."""
    pattern = parse_pattern(text.rstrip("/") or text, place.folder, place.key, field)
    path = pattern.root / pattern.glob
    if not path.exists():
        raise SourceError(f"{place.key}.{field}: {text!r} is not there", cure=f"mend the path, or put it below {pattern.root}")
    return path, "/".join(part for part in (pattern.label, pattern.glob) if part not in ("", "."))


def _row(item: Item, spec: MediaSource, shape: re.Pattern[str] | None, labels: _Labels) -> dict[str, Any] | tuple[str, str]:
    """The item as named fields, or (reason, detail)."""
    if item.problem:
        return item.problem
    path = PurePosixPath(item.name)
    row: dict[str, Any] = dict(item.more or {})
    if spec.folder_is:
        row[spec.folder_is] = path.parent.name or None
    if shape:
        match = shape.match(path.name)
        if match is None:
            return "other name", path.name
        row |= match.groupdict()
    if labels.rows is not None:
        found = labels.take(item.name)
        if found is None:
            return "no label", item.name
        row |= found
    for column in row.keys() & spec.replace.keys():
        row[column] = spec.replace[column].get(str(row[column]), row[column])
    return row | {spec.into: {"bytes": item.data, "path": item.name}}


class _Labels:
    """The CSV or JSON Lines of ``labels``: rows by the item's path, or by its file name where the column holds that."""

    def __init__(self, spec: MediaSource, place: Place) -> None:
        self.rows: dict[str, dict[str, Any]] | None = None
        self.used: set[str] = set()
        if not spec.labels:
            return
        path, self.source = _locate(spec.labels, "labels", place)
        if _is_idx(path):
            return
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{place.key}.labels: {self.source} cannot be read: {error}", cure="give CSV in UTF-8") from None
        names, rows = self._lines(text, place) if path.suffix in (".jsonl", ".ndjson") else self._cells(text)
        if "file" not in names:
            message = f"{place.key}.labels: {self.source} has no column 'file'"
            have = ", ".join(names)
            raise SourceError(message, cure=f"name the column that holds the items' paths 'file'; its columns are: {have}")
        self.rows = {str(row.pop("file")): row for row in rows}

    def _cells(self, text: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Names of the columns, and the rows, of CSV."""
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
        return list(reader.fieldnames or ()), [{k: v or None for k, v in row.items() if k} for row in reader]

    def _lines(self, text: str, place: Place) -> tuple[list[str], list[dict[str, Any]]]:
        """The same of JSON Lines: those names that every line has."""
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                row, why = 0, str(error)
            else:
                why = "it is no JSON object"
            if row is not None and not isinstance(row, dict):
                message = f"{place.key}.labels: {self.source}:{number} cannot be read: {why}"
                raise SourceError(message, cure='write an object a line, as in {"file": "a.jpg", "label": "cat"}')
            rows += [row] if row is not None else []
        return [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)], rows

    def take(self, name: str) -> dict[str, Any] | None:
        assert self.rows is not None
        key = next((key for key in (name, PurePosixPath(name).name) if key in self.rows), None)
        if key is None:
            return None
        self.used.add(key)
        return self.rows[key]

    def left(self) -> Iterator[SetAside]:
        """Rows for which there was no item."""
        for key in (self.rows or {}).keys() - self.used if self.rows else ():
            yield SetAside(self.source, "no such item", key)


def _items(path: Path, spec: MediaSource, place: Place) -> Iterator[Item]:
    wanted = [glob_regex(glob) for glob in spec.match]
    try:
        if path.is_dir():
            yield from _folder(path, wanted, spec.max_size)
        elif zipfile.is_zipfile(path):
            yield from _zip(path, wanted, spec.max_size)
        elif _is_idx(path):
            yield from _idx(path, spec, place)
        elif tarfile.is_tarfile(path):
            yield from _tar(path, wanted, spec.max_size)
        else:
            cure = "give a folder, a .zip or .tar archive, or an IDX file"
            raise SourceError(f"{place.key}.media: {spec.media!r} is none of what can be read", cure=cure)
    except _DAMAGED as error:
        raise SourceError(f"{place.key}.media: {spec.media!r} cannot be read: {error}", cure="check the file") from None


def _unpacked(items: Iterator[Item], records: PixelRecords | None) -> Iterator[Item]:
    """Of items that hold many pictures each picture, as PGM or PPM."""
    for item in items:
        if records is None or item.problem:
            yield item
            continue
        if not item.data or len(item.data) % records.length:
            detail = f"{len(item.data)} bytes are no whole number of records of {records.length} bytes"
            yield Item(item.name, problem=("unreadable", detail))
            continue
        rows, labels = np.frombuffer(item.data, np.uint8).reshape(-1, records.length), len(records.labels)
        pixels = rows[:, labels:].reshape(len(rows), -1, records.height, records.width).transpose(0, 2, 3, 1)
        for number, (row, image) in enumerate(zip(rows, pixels, strict=True)):
            more = dict(zip(records.labels, row[:labels].tolist(), strict=True))
            yield _bare(f"{item.name}/{number:06d}", image if image.shape[2] == 3 else image[..., 0], more)


def _bare(name: str, image: npt.NDArray[np.uint8], more: Mapping[str, Any] | None) -> Item:
    """Pixels (H, W) or (H, W, 3) as PGM or PPM, which is them behind one line."""
    grey = image.ndim == 2
    head = b"%s\n%d %d\n255\n" % (b"P5" if grey else b"P6", image.shape[1], image.shape[0])
    return Item(f"{name}.{'pgm' if grey else 'ppm'}", head + image.tobytes(), more=more)


def _folder(path: Path, wanted: list[re.Pattern[str]], most: int) -> Iterator[Item]:
    for found in walk(Pattern(path, "", "**/*")):
        name = found.relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if found.problem:
            yield Item(name, problem=("linked folder" if found.problem == "link" else "unreadable", found.problem))
        elif any(glob.match(found.relative) for glob in wanted):
            try:
                if not found.path.is_file():
                    yield Item(name, problem=("unreadable", "not a regular file"))
                    continue
                with found.path.open("rb") as stream:
                    yield _limited(name, stream, found.path.stat().st_size, most)
            except OSError as error:
                yield Item(name, problem=("unreadable", error.strerror or str(error)))


def _zip(path: Path, wanted: list[re.Pattern[str]], most: int) -> Iterator[Item]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or not (item := _inside(entry.filename, wanted)):
                continue
            if not item.problem:
                try:
                    with archive.open(entry) as stream:
                        item = _limited(item.name, stream, entry.file_size, most)
                except _DAMAGED as error:
                    item = Item(item.name, problem=("unreadable", str(error)))
            yield item


def _tar(path: Path, wanted: list[re.Pattern[str]], most: int) -> Iterator[Item]:
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isdir() or not (item := _inside(entry.name, wanted)):
                continue
            if not item.problem:
                stream = archive.extractfile(entry) if entry.isreg() else None
                link = Item(item.name, problem=("link", entry.linkname))
                item = _limited(item.name, stream, entry.size, most) if stream else link
            yield item


def _inside(name: str, wanted: list[re.Pattern[str]]) -> Item | None:
    """An archive's entry by its path without ``./``; one whose path leads out of the archive is no item; None: not wanted."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
        return Item(name, problem=("unsafe path", "it leads out of the archive"))
    return Item(str(parts)) if any(glob.match(str(parts)) for glob in wanted) else None


def _limited(name: str, stream: IO[bytes], size: int, most: int) -> Item:
    """The content, unless it is longer than ``most`` bytes, whatever ``size`` the archive says."""
    if size > most:
        return Item(name, problem=("too long", f"{size} bytes"))
    data = stream.read(most + 1)
    return Item(name, data) if len(data) <= most else Item(name, problem=("too long", f"more than {most} bytes"))


# -- IDX: two zero bytes, type, dimensions, their big-endian sizes, values ---------------------------------------------------


def _is_idx(path: Path) -> bool:
    try:
        with _opened(path) as stream:
            head = stream.read(4)
    except _DAMAGED:
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 1 <= head[3] <= 4


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array of an IDX file, also of a gzipped one. Raises ``EOFError`` where it is cut short."""
    with _opened(path) as stream:
        head = stream.read(4)
        sizes = [int.from_bytes(stream.read(4)) for _ in range(head[3])]
        kind = np.dtype(_IDX_TYPES[head[2]])
        wanted = math.prod(sizes) * kind.itemsize
        # Deflate makes nothing more than 1,032 times smaller, so that a false size asks for no memory.
        data = stream.read(wanted) if wanted <= 1100 * path.stat().st_size else b""
    if len(data) < wanted:
        raise EOFError(f"it ends before {wanted} bytes")
    return np.frombuffer(data, kind).reshape(sizes)


def _idx(path: Path, spec: MediaSource, place: Place) -> Iterator[Item]:
    """Each image as PGM or PPM; its label where ``spec.labels`` is an IDX file."""
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        message = f"{place.key}.media: {spec.media!r} holds {images.dtype} of shape {images.shape}"
        raise SourceError(message, cure="images are bytes of shape (count, height, width) or (count, height, width, 3)")
    labels = None
    if spec.labels:
        where, _ = _locate(spec.labels, "labels", place)
        if _is_idx(where):
            labels = read_idx(where)
            if labels.shape != images.shape[:1]:
                message = f"{place.key}.labels: {spec.labels!r} holds {labels.shape} labels for {len(images)} images"
                raise SourceError(message, cure="give the label file of the same part")
    for number, image in enumerate(images):
        yield _bare(f"{number:06d}", image, None if labels is None else {spec.label_is: labels[number].item()})
