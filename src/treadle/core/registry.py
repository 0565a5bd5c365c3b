"""A registry is a dict from short names; a miss lists what there is, a second entry of a name is a defect."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from treadle.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Short names to things of one type; ``what`` names them in messages ("trunk", "head")."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: file the decorated thing under ``name``."""

        def keep(entry: T) -> T:
            assert name not in self._entries, f"{self.what} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return keep

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"there is no {self.what} {name!r}", cure=f"{hint}known: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
