"""What every kind of source is: a function from its section of treadle.yaml to records, and to what could not become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.data.record import Record, SetAside
from treadle.data.schema import Schema


@dataclass(frozen=True)
class Place:
    """Where a source stands and what its records look like."""

    folder: Path
    """The project's folder: relative paths start here."""
    key: str
    """The source's key in treadle.yaml, such as ``data.sources.0``, for messages."""
    field: str
    """Name of the record's field that takes the text."""
    max_size: int
    """Larger content is set aside before it is read (bytes)."""
    by: str
    """What a group is: ``file`` or ``folder``, or the name of a field."""
    schema: Schema | None = None
    """Reads the columns of rows and media; None: running text."""
    columns: tuple[str, ...] = ()
    """Of rows, those whose texts become the field, joined by a space, where it is running text; none: the field's name."""
    cache: Path = Path(".treadle/downloads")
    """Folder for what comes from the network."""

    @property
    def wanted(self) -> list[str]:
        """Columns that a row must have."""
        read = list(self.columns or (self.field,)) if self.schema is None else list(self.schema.by_column)
        return [*read, *([self.by] if self.by not in ("file", "folder", "last") and self.by not in read else [])]


Row = Mapping[str, Any] | SetAside
"""A row as it comes, or why it is none."""

Rows = Iterator[tuple[str, Row]]
"""(where it stands, the row)."""

Source = Callable[[Any, Place], Iterator[Record | SetAside]]
"""In the same order each time. Raises ``SourceError`` where the section names nothing that is there."""
