"""Whose turn it is where requests wait: the more pressing first, and among the same each key by its share."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from treadle.core.errors import RequestError
from treadle.serve.version import Full


@dataclass(frozen=True)
class Asker:
    """Who asks, and how pressing it is."""

    key: str = ""
    """Its name; "" where there is none."""
    weight: float = 1.0
    """The key's share beside others'."""
    priority: int = 0
    """What has a lower one is answered earlier."""
    until: float = math.inf
    """When the answer is in vain (monotonic seconds)."""
    begun: list[float] = field(default_factory=list, compare=False)
    """When its records were begun with, and begun with again (monotonic seconds)."""

    @property
    def late(self) -> bool:
        """Whether the answer is in vain by now."""
        return time.monotonic() >= self.until


class Late(RequestError):
    """Its time is over."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        cure = "ask for less, or give it more time: 'timeout' and 'serve.deadline' are the limits"
        super().__init__("the answer was not done in its time", status=504, cure=cure)


class Waiting(Protocol):
    @property
    def asker(self) -> Asker: ...


T = TypeVar("T", bound=Waiting)


class Line(Generic[T]):
    """At most ``most`` that wait, apart from those for which there is room at once.

    The next is of the lowest priority number, there of the key that was served least beside its weight, and of a key the one that
    came first. What a key was served counts in tokens, read and written; one that comes back after a pause does not make up for it
    (the virtual token counter of Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, section 4.1).

    A key that fills the line does not keep others out: who finds it full takes the place of the last of the key that holds most of
    it, and what is less pressing yields its place.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._items: list[T] = []  # in the order in which they came
        self._served: dict[str, float] = {}
        self._busy: Counter[str] = Counter()  # answers under way

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._items))

    def join(self, item: T, room: int, seconds: float) -> T | None:
        """Put ``item`` in line where it has room, there being ``room`` for so many beside the line; gives the one that it puts out.
        Raises ``Full``, which tells to ask again when ``seconds`` for each that waits are over."""
        put_out = None
        if len(self._items) >= self.most + room:
            put_out = self._greediest(item.asker)
            if put_out is None:
                raise self.full(seconds)
            self._items.remove(put_out)
        self._welcome(item.asker.key)
        self._items.append(item)
        return put_out

    def full(self, seconds: float) -> Full:
        """What to tell who finds no place."""
        return Full(len(self._items), min(60, max(1, math.ceil(seconds * (len(self._items) + 1)))))

    def next(self) -> T | None:
        """Whose turn it is."""
        return min(self._items, key=lambda item: (item.asker.priority, self._served.get(item.asker.key, 0.0)), default=None)

    def begin(self, item: T) -> None:
        """Its turn has come."""
        self._items.remove(item)
        self._busy[item.asker.key] += 1

    def put_back(self, item: T) -> None:
        """Its turn came to nothing, and not by its fault: it waits in front of all others of its key."""
        self._items.insert(0, item)
        self._busy[item.asker.key] -= 1
        if not self._busy[item.asker.key]:
            del self._busy[item.asker.key]

    def charge(self, asker: Asker, tokens: int) -> None:
        """So much was done for ``asker``."""
        self._served[asker.key] = self._served.get(asker.key, 0.0) + tokens / asker.weight

    def end(self, asker: Asker) -> None:
        """One that had begun is done."""
        self._busy[asker.key] -= 1
        if not self._busy[asker.key]:
            del self._busy[asker.key]
            self._forget()

    def leave(self, item: T) -> None:
        """It waits no longer."""
        self._items.remove(item)
        self._forget()

    def _present(self) -> set[str]:
        return {item.asker.key for item in self._items} | self._busy.keys()

    def _welcome(self, key: str) -> None:
        """One that was away begins with the least that those who are here were served."""
        present = self._present()
        if key not in present and present:
            least = min(self._served.get(other, 0.0) for other in present)
            self._served[key] = max(self._served.get(key, 0.0), least)

    def _forget(self) -> None:
        """With no one here, no one is ahead."""
        if not self._items and not self._busy:
            self._served.clear()

    def _greediest(self, asker: Asker) -> T | None:
        """The last of what is less pressing than ``asker``; or of the key that holds most places beside its weight, if those are
        more than ``asker``'s would be, the last of what is least pressing."""
        if not self._items:
            return None
        least = max(item.asker.priority for item in self._items)
        if least > asker.priority:
            return [item for item in self._items if item.asker.priority == least][-1]
        places: Counter[str] = Counter()
        for item in self._items:
            places[item.asker.key] += 1
        weights = {item.asker.key: item.asker.weight for item in self._items}
        key = max(places, key=lambda key: places[key] / weights[key])
        if key == asker.key or (places[key] - 1) / weights[key] < (places[asker.key] + 1) / asker.weight:
            return None
        of_key = [item for item in self._items if item.asker.key == key and item.asker.priority >= asker.priority]
        return max(reversed(of_key), key=lambda item: item.asker.priority, default=None)
