"""One thing that is wrong with treadle.yaml, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass

Location = tuple[str | int, ...]
"""Path of a value from the top of the file: keys, and 0-based places in lists."""


@dataclass(frozen=True)
class Mark:
    """A place: 1-based line and column of a file; line 0 is an override, whose ``file`` is what was given."""

    file: str
    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (``file:line:column``), which key, its value, and what would be right."""

    file: str
    line: int
    column: int
    key: str
    message: str
    value: str = ""
    cure: str = ""

    @classmethod
    def at(cls, mark: Mark, key: str, message: str, *, value: str = "", cure: str = "") -> Problem:
        return cls(mark.file, mark.line, mark.column, key, message, value, cure)

    @property
    def place(self) -> tuple[str, int, int]:
        return self.file, self.line, self.column

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        shown = f" (is {self.value})" if self.value else ""
        cure = f"\n    cure: {self.cure}" if self.cure else ""
        return f"{where}: {self.key}: {self.message}{shown}{cure}"


def dotted(location: Location) -> str:
    """``data.sources.0.files``, as ``--set`` takes it."""
    return ".".join(str(step) for step in location) or "file"
