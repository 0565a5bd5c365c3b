"""Where records come from. A new kind of source is a section in ``spec/data.py``, a module here, and a line below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from treadle.core.project import Project
from treadle.data.record import Record, SetAside
from treadle.data.schema import Schema
from treadle.data.sources.base import Place, Rows, Source
from treadle.data.sources.files import read_files
from treadle.data.sources.hub import hub_rows
from treadle.data.sources.media import read_media
from treadle.data.sources.rows import to_records
from treadle.data.sources.sql import sql_rows
from treadle.data.sources.table import table_rows
from treadle.data.sources.url import fetched, local_file
from treadle.spec.data import AnySource, FilesSource, HubSource, MediaSource, SqlSource, TableSource, UrlSource

ROWS: dict[type, Callable[[Any, Place], Rows]] = {TableSource: table_rows, SqlSource: sql_rows, HubSource: hub_rows}
"""Sources of rows with named columns."""
SOURCES: dict[type, Source] = {FilesSource: read_files, MediaSource: read_media}
"""Sources of records."""


def place_of(project: Project, number: int, schema: Schema | None) -> Place:
    """Where the source ``number`` of ``project`` stands; ``schema`` is None for running text."""
    data, (name, given) = project.spec.data, next(iter(project.spec.model.inputs.items()))
    return Place(
        project.folder, f"data.sources.{number}", name, data.clean.max_size, data.split.by, schema,
        given.columns(name), project.store / "downloads",
    )


def collect(spec: AnySource, place: Place) -> Iterator[Record | SetAside]:
    """Everything that the source ``spec`` holds, in the same order each time. Raises ``SourceError``."""
    if isinstance(spec, UrlSource):
        yield from _from_network(spec, place)
    elif type(spec) in ROWS:
        yield from to_records(ROWS[type(spec)](spec, place), spec, place)  # type: ignore[arg-type]
    else:
        yield from SOURCES[type(spec)](spec, place)


def _from_network(spec: UrlSource, place: Place) -> Iterator[Record | SetAside]:
    """The records of the downloaded file, called by its URL."""
    file = local_file(spec, place)
    kept = f"{file.parent.name}/{file.name}"
    for item in collect(fetched(spec, place), place):
        _, found, after = item.source.partition(kept)
        item = replace(item, source=spec.url + after if found else item.source)
        yield replace(item, meta={**item.meta, "pattern": spec.url}) if isinstance(item, Record) else item
