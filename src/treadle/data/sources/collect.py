"""Where records come from. A new kind of source is a section in ``spec/data.py``, a module here, and a line below."""

from __future__ import annotations

from collections.abc import Iterator

from treadle.data.record import Record, SetAside
from treadle.data.sources.base import Place, Source
from treadle.data.sources.files import read_files
from treadle.data.sources.media import read_media
from treadle.data.sources.table import read_table
from treadle.spec.data import AnySource, FilesSource, MediaSource, TableSource

SOURCES: dict[type, Source] = {FilesSource: read_files, TableSource: read_table, MediaSource: read_media}


def collect(spec: AnySource, place: Place) -> Iterator[Record | SetAside]:
    """Everything that the source ``spec`` holds, in the same order each time. Raises ``SourceError``."""
    return SOURCES[type(spec)](spec, place)
