"""One version of a model of records at work: a thread that answers all that waits together, as one batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from treadle.core.batch import Batch
from treadle.core.errors import RequestError
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.generate import generation_threads
from treadle.model.network import Network
from treadle.serve.version import Full, Retired, Version

ROWS = 256
"""Most records that are answered together."""
_log = logging.getLogger("treadle.serve")

Row = Mapping[str, Any]
"""Plain columns, as ``Schema.parse`` gives them."""
Prediction = dict[str, dict[str, Any]]
"""Head's name -> its answer."""


class Predictor:
    """A network with a queue of at most ``queue`` requests. While a batch is computed the next requests gather, so batches grow
    with the load and a lone request waits for no one."""

    def __init__(self, network: Network, schema: Schema, version: Version, queue: int) -> None:
        self.network, self.schema, self.version, self.queue = network, schema, version, queue
        self._waiting: deque[tuple[Sequence[Row], Future[list[Prediction]]]] = deque()
        self._active = 0
        self._seconds = 0.05  # how long a batch takes, a moving mean
        self._retired = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"predictor-{version.number}", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return self._active

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> Future[list[Prediction]]:
        """Put ``rows`` in line; one prediction for each. Raises ``Full``, or ``Retired`` if it takes no new work."""
        future: Future[list[Prediction]] = Future()
        with self._wake:
            if self._retired:
                raise Retired
            if len(self._waiting) >= max(1, self.queue):
                raise Full(len(self._waiting), max(1, round(self._seconds * len(self._waiting))))
            self._waiting.append((rows, future))
            self._wake.notify()
        return future

    def retire(self) -> None:
        """Take no new work; finish what there is, then let the thread end."""
        with self._wake:
            self._retired = True
            self._wake.notify()

    def stop(self) -> None:
        """Cancel what waits, and wait for the thread's end."""
        with self._wake:
            self._retired = True
            for _, future in self._waiting:
                future.cancel()
            self._wake.notify()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether a retired predictor has finished."""
        return not self._thread.is_alive()

    def _work(self) -> None:
        torch.set_num_threads(generation_threads(self.network))  # of this thread alone
        while taken := self._take():
            start = time.monotonic()
            try:
                found = predict(self.network, self.schema, [row for rows, _ in taken for row in rows])
            except Exception as error:
                _log.exception("version %s failed at a batch; its requests are given up", self.version.number)
                for _, future in taken:
                    future.set_exception(_failed(error))
                continue
            finally:
                self._active = 0
            self._seconds += 0.2 * (time.monotonic() - start - self._seconds)
            for rows, future in taken:
                future.set_result(found[: len(rows)])
                found = found[len(rows) :]

    def _take(self) -> list[tuple[Sequence[Row], Future[list[Prediction]]]]:
        """Wait for work and take as much of it as one batch holds, one request at least; nothing when no more will come."""
        with self._wake:
            while True:
                taken: list[tuple[Sequence[Row], Future[list[Prediction]]]] = []
                count = 0
                while self._waiting and (not taken or count + len(self._waiting[0][0]) <= ROWS):
                    request = self._waiting.popleft()
                    if request[1].set_running_or_notify_cancel():
                        taken.append(request)
                        count += len(request[0])
                if taken or (self._retired and not self._waiting):
                    self._active = len(taken)
                    return taken
                self._wake.wait()


def _failed(error: Exception) -> RequestError:
    return RequestError("the model failed at this request", status=500, cure=f"the server's log says why ({type(error).__name__})")


@torch.inference_mode()
def predict(
    network: Network, schema: Schema, rows: Sequence[Row], done: Callable[[int], None] = lambda rows: None
) -> list[Prediction]:
    """The answers of every head to each row, in batches of ``ROWS``; the same as one at a time up to rounding."""
    found: list[Prediction] = []
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        batch: Batch = Table("request", schema.encode_inputs(part), {}, 0, shuffle=False).whole()
        readable = network.readable(network(batch))
        answers = {name: schema.targets[name].answers(outputs.float().numpy()) for name, outputs in readable.items()}
        found += [
            {name: schema.targets[name].about(given[place], row) for name, given in answers.items()}
            for place, row in enumerate(part)
        ]
        done(len(part))
    return found
