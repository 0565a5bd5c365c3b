"""What happened of late: times with their percentiles, and counts by kind. Bounded, whatever the load; safe from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

WINDOW = 300.0
"""Seconds that are looked back."""
_MOST = 5000

Percentiles = dict[str, float | int]


def percentiles(values: Iterable[float]) -> Percentiles | None:
    """``p50``, ``p90`` and ``p99`` by nearest rank, each being one of ``values``, and ``count``; None of nothing."""
    known = sorted(values)
    if not known:
        return None
    return {f"p{p}": round(known[math.ceil(p * len(known) / 100) - 1], 6) for p in (50, 90, 99)} | {"count": len(known)}


class Times:
    """The newest values within ``WINDOW``, 5,000 at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._values: deque[tuple[float, float]] = deque(maxlen=_MOST)

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append((self._clock(), value))

    def percentiles(self) -> Percentiles | None:
        with self._lock:
            while self._values and self._values[0][0] < self._clock() - WINDOW:
                self._values.popleft()
            values = [value for _, value in self._values]
        return percentiles(values)


class Tally:
    """How much of each kind was counted, by the second, within ``WINDOW``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._seconds: deque[tuple[int, Counter[str]]] = deque(maxlen=math.ceil(WINDOW) + 1)

    def add(self, kind: str, amount: int = 1) -> None:
        second = math.floor(self._clock())
        with self._lock:
            if not self._seconds or self._seconds[-1][0] != second:
                self._seconds.append((second, Counter()))
            self._seconds[-1][1][kind] += amount

    def of(self, *kinds: str, seconds: float = WINDOW) -> int:
        """Of these kinds together, within the last ``seconds``."""
        since = self._clock() - seconds
        with self._lock:
            return sum(counts[kind] for second, counts in self._seconds if second > since for kind in kinds)
