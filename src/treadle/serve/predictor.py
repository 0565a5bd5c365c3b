"""One version of a model of records at work: it answers all that waits together, as one batch."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import torch

from treadle.core.batch import Batch
from treadle.core.errors import RequestError
from treadle.core.runtime import best_device
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.model.generate import SMALL, generation_threads
from treadle.model.layers.quantized import Int8Rows
from treadle.model.network import Network
from treadle.serve.line import Asker, Late, Line
from treadle.serve.version import Retired, Version

ROWS = 256
"""Most records that are answered together."""
QUICK = 0.003
"""Seconds of computing up to which a batch is computed on the event loop: then handing it to a thread and back costs more, since
the two take turns at the interpreter, up to 5 ms each time."""
_QUICK_ROWS = 64  # most of such a batch
_log = logging.getLogger("treadle.serve")

Row = Mapping[str, Any]
"""Plain columns, as ``Schema.parse`` gives them."""
Prediction = dict[str, dict[str, Any]]
"""Head's name -> its answer."""


_Answers = TypeVar("_Answers", Future[list[Prediction]], asyncio.Future[list[Prediction]])


@dataclass(eq=False)
class _Asked(Generic[_Answers]):
    """A request, and where its answers go."""

    rows: Sequence[Row]
    future: _Answers
    asker: Asker


_Waiting = _Asked[Future[list[Prediction]]]
_Gathered = _Asked[asyncio.Future[list[Prediction]]]


class Predictor:
    """A network with a queue of at most ``queue`` requests. While a batch is computed the next requests gather, so batches grow
    with the load and a lone request waits for no one. A thread computes; of a ``quick`` model, ``answer`` does without it."""

    def __init__(self, network: Network, schema: Schema, version: Version, queue: int) -> None:
        self.network, self.schema, self.version = _placed(network), schema, version
        self._threads = generation_threads(network)
        self._line: Line[_Waiting] = Line(max(1, queue))
        self._gathered: list[_Gathered] = []  # of the event loop alone
        self._active = 0
        self._cost = math.inf  # seconds of computing for a batch, a moving mean
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
        return len(self._line) + len(self._gathered)

    @property
    def quick(self) -> bool:
        """Whether its batches have been computed within ``QUICK`` of late."""
        return self._cost <= QUICK

    def submit(self, rows: Sequence[Row], asker: Asker | None = None) -> Future[list[Prediction]]:
        """Put ``rows`` in line; one prediction for each. Raises ``Full``, or ``Retired`` if it takes no new work."""
        future: Future[list[Prediction]] = Future()
        with self._wake:
            if self._retired:
                raise Retired
            put_out = self._line.join(_Asked(rows, future, asker or Asker()), -len(self._gathered), self._seconds)
            self._wake.notify()
        if put_out is not None and put_out.future.set_running_or_notify_cancel():
            put_out.future.set_exception(self._line.full(self._seconds))
        return future

    def answer(self, rows: Sequence[Row], asker: Asker | None = None) -> asyncio.Future[list[Prediction]]:
        """As ``submit``, on the event loop that it is called from: what comes in turns of the loop that each bring something is one
        batch. For few rows of a ``quick`` model."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Prediction]] = loop.create_future()
        with self._wake:
            if self._retired:
                raise Retired
            if self.waiting >= self._line.most:
                raise self._line.full(self._seconds)
            if not self._gathered:
                loop.call_soon(self._gather, 0)
            self._gathered.append(_Asked(rows, future, asker or Asker()))
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
            for asked in self._line:
                asked.future.cancel()
            self._wake.notify()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether a retired predictor has finished."""
        return not self._thread.is_alive() and not self._gathered

    def _gather(self, known: int) -> None:
        """Have what is there answered, unless there is more than the ``known`` of one turn before: then the next turn may bring yet
        more, and two batches take nearly twice as long as one."""
        if known < len(self._gathered) < _QUICK_ROWS:
            asyncio.get_running_loop().call_soon(self._gather, len(self._gathered))
        else:
            self._answer_gathered()

    def _answer_gathered(self) -> None:
        taken, count = list[_Gathered](), 0
        while self._gathered and (not taken or count + len(self._gathered[0].rows) <= _QUICK_ROWS):
            taken.append(self._gathered.pop(0))
            count += len(taken[-1].rows)
        if self._gathered:
            asyncio.get_running_loop().call_soon(self._answer_gathered)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # of this thread alone
        self._compute([asked for asked in taken if not asked.future.done()])

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # of this thread alone
        while taken := self._take():
            try:
                self._compute(taken)
            finally:
                self._active = 0
                with self._wake:
                    for asked in taken:
                        self._line.end(asked.asker)

    def _compute(self, taken: Sequence[_Waiting] | Sequence[_Gathered]) -> None:
        """Answer them together, of whom none can be taken back any more; where that fails, as for want of memory, one by one, so
        that what is at fault fails alone."""
        if not taken:
            return
        start, spent = time.monotonic(), time.thread_time()
        for asked in taken:
            asked.asker.begun.append(start)
        try:
            found = predict(self.network, self.schema, [row for asked in taken for row in asked.rows])
        except Exception as error:
            _log.exception("version %s failed at a batch of %s requests", self.version.number, len(taken))
            if len(taken) == 1:
                taken[0].future.set_exception(_failed(error))
                return
            for place in range(len(taken)):
                self._compute(taken[place : place + 1])
            return
        spent = time.thread_time() - spent
        self._cost = spent if math.isinf(self._cost) else self._cost + 0.2 * (spent - self._cost)
        self._seconds += 0.2 * (time.monotonic() - start - self._seconds)
        for asked in taken:
            asked.future.set_result(found[: len(asked.rows)])
            found = found[len(asked.rows) :]

    def _take(self) -> list[_Waiting]:
        """Wait for work and take as much of it as one batch holds, one request at least; nothing when no more will come."""
        while True:
            late, taken, count = list[_Waiting](), list[_Waiting](), 0
            with self._wake:
                while (asked := self._line.next()) and not (taken and count + len(asked.rows) > ROWS):
                    if not asked.future.set_running_or_notify_cancel():
                        self._line.leave(asked)
                    elif asked.asker.late:
                        self._line.leave(asked)
                        late.append(asked)
                    else:
                        self._line.begin(asked)
                        self._line.charge(asked.asker, len(asked.rows))
                        taken.append(asked)
                        count += len(asked.rows)
                self._active = len(taken)
                if not taken and not late:
                    if self._retired:
                        return []
                    self._wake.wait()
            for asked in late:
                asked.future.set_exception(Late())
            if taken:
                return taken


def _placed(network: Network) -> Network:
    """On the GPU where there is one and the network is large: a small one is quicker on the processor, for which int8 is too."""
    able = network.parameter_count >= SMALL and not any(isinstance(module, Int8Rows) for module in network.modules())
    return network.to(best_device()) if able else network


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
        readable = network.readable(network(batch.to(next(chain(network.parameters(), network.buffers())).device)))
        answers = {name: schema.targets[name].answers(outputs.float().cpu().numpy()) for name, outputs in readable.items()}
        found += [
            {name: schema.targets[name].about(given[place], row) for name, given in answers.items()}
            for place, row in enumerate(part)
        ]
        done(len(part))
    return found
