"""What every kind of source is: a function from its section of treadle.yaml to records, and to what could not become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


Source = Callable[[Any, Place], Iterator[Record | SetAside]]
"""In the same order each time. Raises ``SourceError`` where the section names nothing that is there."""
