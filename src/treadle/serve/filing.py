"""Answers on their way into the ledger: those that wait together go in together, in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread

from treadle.store.ledger import Ledger

MOST = 512
"""Rows of one transaction."""

Row = Mapping[str, Any]
"""The columns of an answer but ``at``."""


class Filer:
    """Of one event loop. A transaction takes long beside its rows, and while it is under way the next rows gather; so many answers
    at once wait for few transactions, and a lone one for its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[tuple[Sequence[Row], asyncio.Future[None]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def file(self, rows: Sequence[Row]) -> None:
        """Come back when ``rows`` are in the ledger. Raises what writing them raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft()]
            count = len(taken[0][0])
            while self._waiting and count + len(self._waiting[0][0]) <= MOST:
                taken.append(self._waiting.popleft())
                count += len(taken[-1][0])
            errors = await anyio.to_thread.run_sync(self._together, [rows for rows, _ in taken])
            for (_, done), error in zip(taken, errors, strict=True):
                if done.done():  # no one waits for it any more
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    def _together(self, parts: list[Sequence[Row]]) -> list[Exception | None]:
        """What writing each raised. One of them may be at fault: the others are not lost for it."""
        try:
            self._ledger.record_answers([row for rows in parts for row in rows])
        except Exception as error:
            return [error] if len(parts) == 1 else [self._together([rows])[0] for rows in parts]
        return [None] * len(parts)
