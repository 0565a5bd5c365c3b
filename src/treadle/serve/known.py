"""Whose a key is, asked of the ledger once in a while instead of with each request."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

import anyio.to_thread

from treadle.store.keys import Key
from treadle.store.ledger import Ledger

FRESH = 1.0
"""Seconds for which the ledger's word holds: a key that is revoked elsewhere opens nothing after them."""


class Known:
    """The keys that were good of late. What the ledger does not know, or was not asked about lately, is asked there, so that a key
    that was made this moment opens at once. Of secrets only hashes are kept."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._found: dict[bytes, tuple[float, Key]] = {}
        self._asking: dict[bytes, asyncio.Task[Key | None]] = {}
        self._any, self._until = False, 0.0

    async def find(self, secret: str) -> Key | None:
        """As ``Ledger.find_key``; it may have expired. Raises ``WorkError`` where the ledger cannot be read."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        until, key = self._found.get(digest, (0.0, None))
        if key is not None and self._clock() < until:
            return key
        asking = self._asking.get(digest)
        if asking is None:  # else another request asks already, and many would hold up all answers
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest, secret))
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        return await asyncio.shield(asking)

    async def _ask(self, digest: bytes, secret: str) -> Key | None:
        asked = self._clock()
        found = await anyio.to_thread.run_sync(self._ledger.find_key, secret)
        if found is None:
            self._found.pop(digest, None)
        else:
            self._found[digest] = (asked + FRESH, found)
        return found

    async def any_live(self) -> bool:
        """Whether there is a key at all that opens something; one that was made this moment may not count yet."""
        if self._clock() >= self._until:
            asked = self._clock()
            self._any = bool(await anyio.to_thread.run_sync(self._ledger.live_keys))
            self._until = asked + FRESH
        return self._any
