"""What every kind of field is. N records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from treadle.core.layout import Layout
from treadle.data.columns import Augment, Column

Value = Any
"""A field's content in its plain form, such as str, float or None; what ``parse`` gives."""


class BadValue(ValueError):
    """A value that cannot be read: ``reason`` is one short word for counting, such as ``not a number``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Field(ABC):
    """One input or one head's answers. Made with its settings, it is fitted on the train part, or restored from its state."""

    arrow: pa.DataType = pa.string()
    """Of its columns at rest."""

    def __init__(self, name: str, settings: Any, columns: Sequence[str]) -> None:
        self.name, self.settings, self.columns = name, settings, tuple(columns)

    @abstractmethod
    def parse(self, raw: Any) -> Value:
        """One column's value as it comes from a file, a database or a request -> its plain form. Raises ``BadValue``."""

    def meet(self, inputs: Mapping[str, Field]) -> None:  # noqa: B027  (most fields stand alone)
        """Take note of the inputs' fields by name, once all are made."""

    def value(self, fields: Mapping[str, Any]) -> Value:
        """The field's value from a record's plain columns."""
        return fields.get(self.columns[0])

    def remarks(self, values: Sequence[Value]) -> list[str]:
        """What a person should know of the train part's values, such as that a part of them is not read."""
        return []

    def find(self, folder: Path) -> None:  # noqa: B027  (most fields name no file)
        """Read the files that the settings name, before ``fit``; relative paths start at ``folder``. Raises ``UserError``."""

    @abstractmethod
    def fit(self, values: Sequence[Value]) -> None:
        """Learn what encoding needs from the train part's values."""

    @abstractmethod
    def encode(self, values: Sequence[Value]) -> Column:
        """N values as arrays."""

    def change(self, seed: int) -> Augment | None:
        """What changes encoded values at random in training, as the settings ask; None: nothing."""
        return None

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """What a model needs to know, once fitted."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What ``fit`` learned, as JSON values."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""


def text_of(raw: Any) -> str | None:
    """A value as text without spaces around it; None where there is none. A whole float is written as the integer that it is.
    Raises ``BadValue`` for bytes, which are no text until someone says how."""
    if raw is None or (isinstance(raw, float) and raw != raw):
        return None
    if isinstance(raw, bytes):
        raise BadValue("not text", f"{len(raw)} bytes")
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float) and abs(raw) < 2**53 and raw == int(raw):
        return str(int(raw))
    return str(raw).strip() or None
