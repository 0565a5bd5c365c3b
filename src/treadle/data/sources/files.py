"""Text files that match a glob: each is one record, or is set aside with the reason."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from treadle.core.errors import SourceError
from treadle.data.record import Record, SetAside, content_id
from treadle.data.sources.base import Place
from treadle.data.sources.globs import Found, glob_regex, parse_pattern, walk
from treadle.spec.data import FilesSource

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CONTROL_SHARE = 0.02  # more control characters than this and it is not text, whatever it decodes to
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
            yield _read(found, source, spec, place)
    if not files:
        hint = f"to take every file below it, write '{spec.files.rstrip('/')}/**/*'" if (place.folder / spec.files).is_dir() else ""
        cure = hint or f"mend the pattern, or put files below {pattern.root}"
        raise SourceError(f"{place.key}.files: {spec.files!r} matches no file", cure=cure)


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
    return Record(content_id(fields), fields, source, spec.licence, group, {"pattern": spec.files, "bytes": len(data)})


def _printable(path: str) -> str:
    """File names may hold bytes that are no text; they are written as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
