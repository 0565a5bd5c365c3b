"""Answers on their way into the ledger: those that wait together go in together, in one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from treadle.store.ledger import Ledger

MOST = 512
"""Rows of one transaction."""

Row = Mapping[str, Any]
"""The columns of an answer but ``at``."""


class Filer:
    """A thread that writes. A transaction takes long beside its rows, and while it is under way the next rows gather; so many
    answers at once wait for few transactions, and a lone one for its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[tuple[Sequence[Row], Future[None]]] = deque()
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="filer", daemon=True)
        self._thread.start()

    def file(self, rows: Sequence[Row]) -> Future[None]:
        """Done when ``rows`` are in the ledger; raises there what writing them raised."""
        future: Future[None] = Future()
        with self._wake:
            if self._closed:
                future.set_exception(RuntimeError("the ledger is closed to answers"))
                return future
            self._waiting.append((rows, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._take():
            try:
                self._ledger.record_answers([row for rows, _ in taken for row in rows])
            except Exception as error:
                if len(taken) == 1:
                    taken[0][1].set_exception(error)
                    continue
                for rows, future in taken:  # one of them may be at fault: the others are not lost for it
                    self._alone(rows, future)
                continue
            for _, future in taken:
                future.set_result(None)

    def _alone(self, rows: Sequence[Row], future: Future[None]) -> None:
        try:
            self._ledger.record_answers(rows)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    def _take(self) -> list[tuple[Sequence[Row], Future[None]]]:
        """Wait for rows, and take as many as one transaction holds; nothing when no more will come."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            taken, count = [], 0
            while self._waiting and (not taken or count + len(self._waiting[0][0]) <= MOST):
                taken.append(self._waiting.popleft())
                count += len(taken[-1][0])
            return taken
