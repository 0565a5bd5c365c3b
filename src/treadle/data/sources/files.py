"""Text files that match a glob: each is one record, or several, or is set aside with the reason."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import replace

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside, content_id
from treadle.data.sources.base import Place
from treadle.data.sources.globs import Found, glob_regex, parse_pattern, pruning, walk
from treadle.spec.data import FilesSource

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CONTROL_SHARE = 0.02  # more control characters than this and it is not text, whatever it decodes to
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_SAMPLE = 8192  # characters looked at for that


def read_files(spec: FilesSource, place: Place) -> Iterator[Record | SetAside]:
    """The files of ``spec`` in order of their paths. Linked folders are not entered, and excluded files are not read.

    Raises ``SourceError`` where the pattern's folder is missing or no file matches.
    """
    pattern = parse_pattern(spec.files, place.folder, place.key)
    excluded = [(reason, glob_regex(glob)) for reason, globs in spec.exclude.items() for glob in globs]
    files = 0
    for found in walk(pattern):
        files += not found.problem
        source = _printable("/".join(part for part in (pattern.label, found.relative) if part))
        reason = next((reason for reason, matches in excluded if matches.match(found.relative)), "")
        if reason:
            yield SetAside(source, reason)
        elif found.problem:
            yield SetAside(source, "linked folder" if found.problem == "link" else "unreadable", found.problem)
        else:
            whole = _read(found, source, spec, place)
            yield from _pieces(whole, spec, place) if isinstance(whole, Record) else [whole]
    if not files:
        hint = f"to take every file below it, write '{spec.files.rstrip('/')}/**/*'" if (place.folder / spec.files).is_dir() else ""
        cure = hint or f"mend the pattern, or put files below {pattern.root}"
        raise SourceError(f"{place.key}.files: {spec.files!r} matches no file", cure=cure)


def count_files(spec: FilesSource, place: Place) -> tuple[int, int]:
    """How many files ``spec`` reads, and their bytes: excluded and too long ones do not count. Nothing is opened, and folders that
    are excluded as a whole are not entered. Raises ``SourceError`` where nothing is left."""
    globs = [glob for globs in spec.exclude.values() for glob in globs]
    excluded = [glob_regex(glob) for glob in globs]
    count = size = 0
    for found in walk(parse_pattern(spec.files, place.folder, place.key), pruning(globs)):
        if found.problem or any(glob.match(found.relative) for glob in excluded):
            continue
        try:
            length = found.path.stat().st_size
        except OSError:  # set aside when it is read, with the reason
            continue
        if length <= place.max_size:
            count, size = count + 1, size + length
    if not count:
        cure = "mend the pattern or its exclude globs, or put files there"
        raise SourceError(f"{place.key}.files: {spec.files!r} matches no file that is read", cure=cure)
    return count, size


def _read(found: Found, source: str, spec: FilesSource, place: Place) -> Record | SetAside:
    try:
        status = found.path.stat()
        if not stat.S_ISREG(status.st_mode):
            return SetAside(source, "unreadable", "not a regular file")
        if status.st_size > place.max_size:
            return SetAside(source, "too long", f"{status.st_size} bytes")
        with found.path.open("rb") as stream:
            data = stream.read(place.max_size + 1)
    except OSError as error:
        return SetAside(source, "unreadable", error.strerror or str(error))
    if len(data) > place.max_size:
        return SetAside(source, "too long", f"more than {place.max_size} bytes")
    return _record(data, source, spec, place)


def _record(data: bytes, source: str, spec: FilesSource, place: Place) -> Record | SetAside:
    wide = spec.encoding.startswith(("utf-16", "utf-32"))
    if not wide and (at := data.find(0)) >= 0:
        return SetAside(source, "binary", f"NUL at byte {at}")
    try:
        text = data.decode(spec.encoding).removeprefix("\ufeff")
        text.encode("utf-8")  # utf-7 and its like can give lone surrogates, which are no text
    except UnicodeError as error:
        where = f"byte {error.start}: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        return SetAside(source, "encoding", f"not {spec.encoding}: {where}")
    sample = text[:_SAMPLE]
    if len(_CONTROL.findall(sample)) > _CONTROL_SHARE * len(sample):
        return SetAside(source, "binary", "control characters")
    if not text.strip():
        return SetAside(source, "empty")
    fields = {place.field: text}
    group = source if place.by == "file" else source.rpartition("/")[0]
    meta = {"pattern": spec.files, "bytes": len(data)} | ({"part": spec.part} if spec.part else {})
    return Record(content_id(fields), fields, source, spec.licence, group, meta)


def _pieces(whole: Record, spec: FilesSource, place: Place) -> Iterator[Record | SetAside]:
    """The span of a file's text that is wanted, in pieces. A piece's source is the file with the line that it begins in."""
    if spec.cut is None and spec.span == (0.0, 1.0):
        yield whole
        return
    text: str = whole.fields[place.field]
    begin, end = (_line_start(text, share) for share in spec.span)
    line = 1 + text.count("\n", 0, begin)
    for piece in _cut(text[begin:end], spec.cut):
        fields, source = {place.field: piece}, f"{whole.source}:{line}"
        group = source if place.by == "file" and spec.cut else whole.group
        meta = {**whole.meta, "bytes": len(piece.encode("utf-8"))}
        if piece.strip():
            yield replace(whole, id=content_id(fields), fields=fields, source=source, group=group, meta=meta)
        else:
            yield SetAside(source, "empty")
        line += piece.count("\n")


def _line_start(text: str, share: float) -> int:
    """Where the first line begins at or behind ``share`` of the text."""
    at = int(share * len(text))
    if at in (0, len(text)):
        return at
    newline = text.find("\n", at - 1)
    return len(text) if newline < 0 else newline + 1


def _cut(text: str, size: int | None) -> Iterator[str]:
    """Pieces that together are the text."""
    piece: list[str] = []
    count = 0
    for line in _LINE.findall(text):
        piece.append(line)
        count += len(line.encode("utf-8"))
        if size and (count >= 2 * size or (count >= size and not line.strip())):
            yield "".join(piece)
            piece, count = [], 0
    if piece:
        yield "".join(piece)


def _printable(path: str) -> str:
    """File names may hold bytes that are no text; they are written as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
