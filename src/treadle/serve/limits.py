"""How much each key may ask: per minute, at once, per day. What is beyond is refused with the time at which it is free again."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import anyio.to_thread

from treadle.core.errors import RequestError, UserError
from treadle.serve.line import Asker
from treadle.serve.uses import Uses
from treadle.spec import access
from treadle.store.keys import Key, Use
from treadle.store.ledger import Ledger


class Limited(RequestError):
    """A key's limit is reached; it is free again ``retry_after`` seconds from now."""

    code = "limit_reached"

    def __init__(self, what: str, key: str, retry_after: int, free: str) -> None:
        cure = f"ask again in {retry_after} s, {free}; the server's owner sets it: 'serve.limits', or 'treadle key add --limit'"
        super().__init__(f"the limit of {what} of the key {key!r} is reached", status=429, cure=cure)
        self.retry_after = retry_after


class Minute:
    """What was counted within the last 60 s. It is kept by the second, so that no flood makes it grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[list[int]] = deque()  # [second, amount], oldest first
        self._sum = 0

    def add(self, amount: int) -> None:
        second = math.floor(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0])
        self._seconds[-1][1] += amount
        self._sum += amount
        self._forget()

    def wait(self, limit: int) -> int:
        """Seconds until less than ``limit`` was counted within a minute; 0: it is so now."""
        self._forget()
        left, wait = self._sum, 0
        for second, amount in self._seconds:
            if left < limit:
                break
            left -= amount
            wait = max(1, math.ceil(second + 61 - self._clock()))  # a whole minute after the last moment of that second
        return wait

    def _forget(self) -> None:
        while self._seconds and self._seconds[0][0] + 61 <= self._clock():
            self._sum -= self._seconds.popleft()[1]


def check_prices(ledger: Ledger, price: access.Price) -> None:
    """Raises ``UserError`` where a key's own limit is of money and nothing has a price: the limit would hold nothing back."""
    for key in ledger.live_keys():
        if key.limits.get("money_per_day") is not None and not price.known:
            cure = f"set 'serve.price' in treadle.yaml, or 'treadle key revoke' it: {key.name}"
            raise UserError(f"the key {key.name!r} has a limit of money per day, and answers have no price", cure=cure)


@dataclass
class Taken:
    """Whose request it is, with which share beside others, and what it has taken so far."""

    key: str = ""
    weight: float = 1.0
    tokens: int = 0
    predictions: int = 0
    answered: bool = False


_taken: ContextVar[Taken | None] = ContextVar("taken", default=None)


def asker(priority: int | None, seconds: float | None) -> Asker:
    """Who asks the request at hand, whose answer is in vain ``seconds`` from now; None: it never is."""
    taken = _taken.get() or Taken()
    until = math.inf if seconds is None else time.monotonic() + seconds
    return Asker(taken.key, taken.weight, priority or 0, until)


def charge(*, tokens: int = 0, predictions: int = 0) -> None:
    """Count what an answer took for the key of the request at hand, if it has one."""
    taken = _taken.get()
    if taken is not None:
        taken.tokens += tokens
        taken.predictions += predictions


@dataclass
class _Account:
    """What a key has asked of late."""

    requests: Minute = field(default_factory=Minute)
    tokens: Minute = field(default_factory=Minute)
    under_way: int = 0
    day: date = date.min
    use: Use = field(default_factory=Use)
    """Of ``day``."""

    _key: Key | None = None
    _limits: access.Limits = field(default_factory=access.Limits)

    def limits(self, key: Key, usual: access.Limits) -> access.Limits:
        """What holds for ``key``: its own limits, else the ``usual`` ones."""
        if key is not self._key:
            self._key, self._limits = key, usual.model_copy(update=dict(key.limits))
        return self._limits

    def begin(self, day: date) -> None:
        if self.day != day:
            self.day, self.use = day, Use()

    def know(self, day: date, use: Use) -> None:
        """Take the ledger's sum. What was summed earlier may come later, and sums only grow."""
        self.begin(day)
        mine = self.use
        self.use = Use(max(mine.requests, use.requests), max(mine.tokens, use.tokens), max(mine.predictions, use.predictions))


class Accounts:
    """What every key has asked, held against its limits. A day's sums are the ledger's, so that they outlive the server."""

    def __init__(self, ledger: Ledger, limits: access.Limits, price: access.Price, currency: str) -> None:
        self._ledger, self._limits, self._price, self._currency = ledger, limits, price, currency
        self._accounts: dict[str, _Account] = {}  # by keys of the ledger, so no one makes it grow by asking
        self._uses = Uses(ledger, lambda name, day, use: self._accounts[name].know(day, use))

    @asynccontextmanager
    async def asking(self, key: Key) -> AsyncIterator[Taken]:
        """Count a request of ``key`` from here to the end. Raises ``Limited``."""
        account = self._accounts.setdefault(key.name, _Account())
        if account.day != (day := _today()):
            found = await anyio.to_thread.run_sync(self._ledger.use_on, day)
            account.know(day, found.get(key.name, Use()))
        limits = account.limits(key, self._limits)
        self._check(key, account, limits)
        account.requests.add(1)
        account.under_way += 1
        taken = Taken(key.name, limits.weight or 1.0)
        token = _taken.set(taken)
        try:
            yield taken
        finally:
            _taken.reset(token)
            account.under_way -= 1
            account.tokens.add(taken.tokens + taken.predictions)
            self._count(key.name, account, Use(int(taken.answered), taken.tokens, taken.predictions))

    def _count(self, name: str, account: _Account, use: Use) -> None:
        """Count ``use`` here at once, and soon in the ledger, whose sum has what other servers answered too."""
        day = _today()
        account.begin(day)
        account.use += use
        if use != Use():
            self._uses.add(name, day, use)

    def _check(self, key: Key, account: _Account, limits: access.Limits) -> None:
        """Raises ``Limited`` for the first limit that is reached. What is under way when one is reached is finished."""
        if limits.concurrent is not None and account.under_way >= limits.concurrent:
            raise Limited(f"{_count(limits.concurrent, 'request')} at once", key.name, 1, "or when one of them has ended")
        for limit, minute, what in (
            (limits.requests_per_minute, account.requests, "request"), (limits.tokens_per_minute, account.tokens, "token"),
        ):
            if limit is not None and (wait := minute.wait(limit)):
                free = f"at {_now() + timedelta(seconds=wait):%H:%M:%S} UTC"
                raise Limited(f"{_count(limit, what)} per minute", key.name, wait, free)
        use, money = account.use, limits.money_per_day
        for reached, what in (
            (_reached(limits.requests_per_day, use.requests + account.under_way), _count(limits.requests_per_day, "request")),
            (_reached(limits.tokens_per_day, use.tokens + use.predictions), _count(limits.tokens_per_day, "token")),
            (_reached(money, self._price.cost(use.tokens, use.predictions)), f"{money or 0:.2f} {self._currency}"),
        ):
            if reached:
                raise Limited(f"{what} per day", key.name, _seconds_of_today(), "at midnight UTC")


def _count(limit: int | None, what: str) -> str:
    return f"{limit or 0:,} {what}{'' if limit == 1 else 's'}"


def _reached(limit: float | None, found: float) -> bool:
    return limit is not None and found >= limit


def _now() -> datetime:
    return datetime.now(UTC)


def _today() -> date:
    return _now().date()


def _seconds_of_today() -> int:
    """How many are left of it."""
    at = _now()
    return 86_400 - (at.hour * 3600 + at.minute * 60 + at.second)
