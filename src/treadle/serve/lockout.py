"""Wrong keys at speed: the address that they come from is not listened to for a while."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import anyio.to_thread

from treadle.core.errors import RequestError
from treadle.serve.audit import note
from treadle.serve.limits import Minute
from treadle.serve.monitor import Monitor
from treadle.spec import access
from treadle.store.ledger import Ledger

_ADDRESSES = 4096  # that are remembered at most; then the one is forgotten that was longest silent
_NOTES = 10  # entries of the audit trail per minute at most, so that no flood fills the disk


class LockedOut(RequestError):
    """Too many wrong keys came from there; ``retry_after`` seconds from now it is heard again."""

    code = "locked_out"

    def __init__(self, retry_after: int) -> None:
        cure = f"ask again in {retry_after} s, with a key that 'treadle key list' shows as live; 'serve.lockout' sets how long"
        super().__init__("too many wrong keys came from this address", status=429, cure=cure)
        self.retry_after = retry_after


@dataclass
class _Address:
    wrong: Minute
    until: float = 0.0
    """Clock's reading at which it is heard again."""


class Lockout:
    """Who is locked out. On a server that other machines cannot reach there is none."""

    def __init__(
        self, settings: access.Lockout, ledger: Ledger, monitor: Monitor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._ledger, self._monitor, self._clock = settings, ledger, monitor, clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._notes, self._unnoted = Minute(clock), 0

    def check(self, address: str) -> None:
        """Raises ``LockedOut`` where ``address`` is."""
        found = self._addresses.get(network_of(address))
        if found is not None and found.until > (now := self._clock()):
            raise LockedOut(math.ceil(found.until - now))

    async def wrong(self, address: str) -> None:
        """Count a wrong key of ``address``."""
        if self._settings.wrong_keys is None:
            return
        network = network_of(address)
        found = self._addresses.setdefault(network, _Address(Minute(self._clock)))
        self._addresses.move_to_end(network)
        if len(self._addresses) > _ADDRESSES:
            self._addresses.popitem(last=False)
        found.wrong.add(1)
        if found.until <= self._clock() and found.wrong.wait(self._settings.wrong_keys):
            found.until, found.wrong = self._clock() + self._settings.duration, Minute(self._clock)
            self._monitor.lockouts.inc()
            await self._note(network)

    async def _note(self, network: str) -> None:
        if self._notes.wait(_NOTES):
            self._unnoted += 1
            return
        self._notes.add(1)
        detail = {"address": network, "seconds": self._settings.duration, "others": self._unnoted}
        self._unnoted = 0
        await anyio.to_thread.run_sync(note, self._ledger, "lock out", detail)


def network_of(address: str) -> str:
    """What one client has: an IPv4 address, or the 64 bits of an IPv6 network, within which it chooses addresses as it likes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
