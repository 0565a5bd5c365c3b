"""Feedback at speed: so much of one sender, and so much on one answer, is taken within a minute."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from treadle.core.errors import RequestError
from treadle.serve.limits import Minute
from treadle.serve.lockout import network_of
from treadle.serve.monitor import Monitor
from treadle.spec import access
from treadle.store.keys import Key

ON_ONE_ANSWER = 10
"""Pieces of feedback on one answer within a minute: whoever changes a mind so often is no one."""
_REMEMBERED = 4096  # senders, and answers, at most; then the one is forgotten that was longest silent
_SAID = 60.0  # seconds between words in the log about one sender

_log = logging.getLogger("treadle.serve")


class Flooded(RequestError):
    """More feedback than is taken; it is free again ``retry_after`` seconds from now."""

    code = "limit_reached"

    def __init__(self, what: str, retry_after: int) -> None:
        cure = f"ask again in {retry_after} s; the server's owner sets it: 'serve.limits.feedback_per_minute'"
        super().__init__(f"the limit of {what} is reached", status=429, cure=cure)
        self.retry_after = retry_after


class FloodGate:
    """What each sender has said of late: a key, or where none is sent an address."""

    def __init__(self, limits: access.Limits, monitor: Monitor, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._monitor, self._clock = limits, monitor, clock
        self._senders: OrderedDict[str, Minute] = OrderedDict()
        self._answers: OrderedDict[str, Minute] = OrderedDict()
        self._said: dict[str, float] = {}

    def let(self, key: Key | None, address: str, answer: str) -> None:
        """Count a piece of feedback. Raises ``Flooded``; what is refused is not counted, but by the monitor."""
        sender = f"the key {key.name!r}" if key else f"the address {network_of(address)}"
        limits = self._limits.model_copy(update=dict(key.limits)) if key else self._limits
        own = self._of(self._senders, sender)
        if (most := limits.feedback_per_minute) is not None and (wait := own.wait(most)):
            self._refuse("sender", sender)
            raise Flooded(f"{most:,} pieces of feedback per minute of {sender}", wait)
        on_answer = self._of(self._answers, answer)
        if wait := on_answer.wait(ON_ONE_ANSWER):
            self._refuse("answer", sender)
            raise Flooded(f"{ON_ONE_ANSWER} pieces of feedback per minute on one answer", wait)
        own.add(1)
        on_answer.add(1)

    def _of(self, minutes: OrderedDict[str, Minute], name: str) -> Minute:
        found = minutes.setdefault(name, Minute(self._clock))
        minutes.move_to_end(name)
        if len(minutes) > _REMEMBERED:
            self._said.pop(minutes.popitem(last=False)[0], None)
        return found

    def _refuse(self, why: str, sender: str) -> None:
        self._monitor.feedback_refused.labels(why).inc()
        now = self._clock()
        if now - self._said.get(sender, -_SAID) >= _SAID:
            self._said[sender] = now
            _log.warning("feedback of %s comes faster than it is taken; what is beyond is refused", sender)
