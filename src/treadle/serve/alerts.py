"""What the server tells of by itself: when it begins and when it is over, once each."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from treadle.data.drift import Verdict
from treadle.data.reference import Thing
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.spec import watch

KEPT = 100
_FEWEST = 10  # answers, or refused requests, that are worth an alert
_FAILED = 2  # requests that failed by the server's fault
_log = logging.getLogger("treadle.serve")

Conditions = dict[str, str]
"""Name -> what is the matter, of those that hold."""


@dataclass(frozen=True)
class Event:
    """An alert began, or is ``over``."""

    at: datetime
    name: str
    message: str
    over: bool

    def as_dict(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(timespec="seconds"), "name": self.name, "message": self.message, "over": self.over}


class Alerts:
    """Which conditions hold, and the newest events."""

    def __init__(self, settle: float, tell: Callable[[Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._settle, self._tell, self._clock = settle, tell, clock
        self._holds: dict[str, tuple[str, float]] = {}  # name -> message, when it was last seen
        self.events: deque[Event] = deque(maxlen=KEPT)

    @property
    def active(self) -> int:
        return len(self._holds)

    def look(self, found: Conditions) -> None:
        """Take note of what holds now."""
        now = self._clock()
        for name, message in found.items():
            if name not in self._holds:
                self._happened(name, message, over=False)
            self._holds[name] = message, now
        for name, (message, seen) in list(self._holds.items()):
            if name not in found and now - seen >= self._settle:
                del self._holds[name]
                self._happened(name, message, over=True)

    def _happened(self, name: str, message: str, over: bool) -> None:
        event = Event(datetime.now(UTC), name, message, over)
        self.events.append(event)
        _log.warning("alert %s%s: %s", name, " is over" if over else "", message)
        self._tell(event)


def conditions(
    settings: watch.Alerts, monitor: Monitor, live: LiveModel, verdicts: list[tuple[Thing, Verdict]], unrecorded: int
) -> Conditions:
    """What holds now; ``unrecorded``: answers of late that could not be written to the ledger."""
    return dict((*_of_requests(settings, monitor), *_of_drift(settings, verdicts), *_always(live, unrecorded)))


def _of_requests(settings: watch.Alerts, monitor: Monitor) -> Iterator[tuple[str, str]]:
    tally = monitor.tally
    failed, refused = tally.of("server_errors"), tally.of("refused")
    asked = tally.of("ok", "client_errors", "server_errors", "refused")
    if settings.errors is not None and failed >= _FAILED and failed > settings.errors * asked:
        yield "errors", f"{failed} of {asked} requests of the last 5 minutes failed by the server's fault"
    if settings.refused is not None and refused >= _FEWEST and refused > settings.refused * asked:
        yield "refused", f"{refused} of {asked} requests of the last 5 minutes were refused with 429, or too late"
    total = monitor.recent["total"].percentiles()
    if settings.latency is not None and total and total["count"] >= _FEWEST and total["p90"] > settings.latency:
        yield "latency", f"one of ten answers of the last 5 minutes took {total['p90']:.3g} s or more, over {settings.latency:g} s"


def _of_drift(settings: watch.Alerts, verdicts: list[tuple[Thing, Verdict]]) -> Iterator[tuple[str, str]]:
    levels = {"some": ("some", "much"), "much": ("much",), "none": ()}[settings.drift]
    for (what, name), found in verdicts:
        if found.level in levels:
            than = "from the training data" if "length" not in name else "from what is usual"
            amount = f"{found.statistic} {found.value:.3g}, {found.count} observations"
            yield f"drift of {what} {name}", f"the {what} {name!r} differs {than}: {amount}"


def _always(live: LiveModel, unrecorded: int) -> Iterator[tuple[str, str]]:
    if live.failed is not None:
        yield "version", f"version {live.failed.version} cannot be loaded, version {live.version.number} goes on"
    if unrecorded:
        yield "ledger", f"answers of the last 5 minutes that could not be written to the ledger: {unrecorded}"
