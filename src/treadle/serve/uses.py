"""What keys have used, on its way into the ledger: what comes within a tenth of a second goes in together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import date

import anyio.to_thread

from treadle.store.keys import Use
from treadle.store.ledger import Ledger

PAUSE = 0.1
"""Seconds for which use is gathered, so that a busy server does not write twice for each answer."""
_log = logging.getLogger("treadle.serve")
_Sums = dict[tuple[str, date], Use]


class Uses:
    """Of one event loop; what is left when that ends is filed then."""

    def __init__(self, ledger: Ledger, know: Callable[[str, date, Use], None]) -> None:
        """``know`` hears of a key's sum of a day as the ledger has it, with what other servers answered."""
        self._ledger, self._know = ledger, know
        self._waiting: _Sums = {}
        self._filing: asyncio.Task[None] | None = None

    def add(self, name: str, day: date, use: Use) -> None:
        """Have it filed that the key ``name`` used so much more on ``day`` (UTC)."""
        self._waiting[name, day] = self._waiting.get((name, day), Use()) + use
        if self._filing is None or self._filing.done():
            self._filing = asyncio.create_task(self._file())

    async def _file(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(PAUSE)
                self._tell(await anyio.to_thread.run_sync(self._write, self._take()))
        finally:
            if self._waiting:
                self._tell(self._write(self._take()))

    def _take(self) -> _Sums:
        taken, self._waiting = self._waiting, {}
        return taken

    def _tell(self, sums: _Sums) -> None:
        for (name, day), use in sums.items():
            self._know(name, day, use)

    def _write(self, taken: _Sums) -> _Sums:
        try:
            return self._ledger.record_uses(taken)
        except Exception as error:
            names = ", ".join(sorted({name for name, _ in taken}))
            _log.error("what keys have used could not be written to the ledger (%s): %s", names, error)
            return {}
