"""Copies of answered requests for a candidate whose answers no user sees: filed beside the live ones, and compared with them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from treadle.core.errors import RequestError
from treadle.data.schema import Schema
from treadle.serve.answers import Finished, redact_pair
from treadle.serve.live import Beside, LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.predictions import prediction_rows, until_done
from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.route import Route
from treadle.serve.version import Retired
from treadle.serve.writer import Piece, Writer
from treadle.store.ledger import Ledger
from treadle.store.tables import random_id

MOST = 64
"""Copies that wait; more are dropped."""
PATIENCE = 10.0
"""Seconds in which a copy finds a moment without users, or another one where it had to give way; then it is dropped."""
_LOOK = 0.01  # seconds between looks whether users wait
_CLOSE = 0.01  # numbers that differ by less than this share of the larger are the same
_log = logging.getLogger("treadle.serve")


@dataclass(frozen=True)
class _Copy:
    """One request for the candidate of ``rollout``; ``work`` gives its rows for the ledger, or None where it gave way to a user."""

    rollout: int
    until: float
    work: Callable[[Beside], Awaitable[list[dict[str, Any]] | None]]


@dataclass(frozen=True)
class Asked:
    """Records that were answered, as the ledger knows them."""

    raw: Sequence[Mapping[str, Any]]
    parse: Callable[[Schema], Sequence[Row]]
    found: Sequence[Prediction]
    ids: Sequence[str]
    stored: bool
    seconds: float


class Shadows:
    """Of one event loop. The candidate works while no user's answer is under way: a copy begins only then, and one that writes text
    is broken off within a step when a user asks, to begin again later: were it dropped, only short answers would be compared on a
    busy server. What finds no such moment in time is dropped and counted."""

    def __init__(self, live: LiveModel, ledger: Ledger, monitor: Monitor) -> None:
        self._live, self._ledger, self._monitor = live, ledger, monitor
        self._waiting: deque[_Copy] = deque()
        self._working: asyncio.Task[None] | None = None

    def text(self, one: Finished, route: Route) -> None:
        """``one`` was answered to a user: let the candidate write it too, if its turn is drawn."""
        if self._drawn(route):
            seconds = time.monotonic() - one.answer.started
            self._put(route, lambda beside: self._write(beside, one, seconds))

    def records(self, asked: Asked, route: Route) -> None:
        """The same of records."""
        if self._drawn(route):
            self._put(route, lambda beside: self._predict(beside, asked))

    def _drawn(self, route: Route) -> bool:
        beside = self._live.beside
        if beside is None or beside.rollout.kind != "shadow" or route.rollout != beside.rollout.id:
            return False
        return route.point(beside.rollout.version) < beside.rollout.share

    def _put(self, route: Route, work: Callable[[Beside], Awaitable[list[dict[str, Any]] | None]]) -> None:
        if len(self._waiting) >= MOST or self._live.draining:
            self._count("dropped")
            return
        assert route.rollout is not None
        self._waiting.append(_Copy(route.rollout, time.monotonic() + PATIENCE, work))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    def _count(self, outcome: str, rows: int = 1) -> None:
        self._monitor.shadows.labels(outcome).inc(rows)

    async def _work(self) -> None:
        while self._waiting:
            copy, rows = self._waiting.popleft(), None
            try:
                while (beside := await self._turn(copy)) and (rows := await copy.work(beside)) is None:
                    if time.monotonic() > copy.until:
                        break
                if rows:
                    await anyio.to_thread.run_sync(self._ledger.record_shadows, rows)
            except Retired:  # it was taken out meanwhile
                rows = None
            except Exception as error:
                _log.error("a shadow answer of rollout %s was lost: %s", copy.rollout, error)
                rows = None
            if rows is None:
                self._count("dropped")
            else:
                self._count("filed", len(rows))

    async def _turn(self, copy: _Copy) -> Beside | None:
        """The candidate, in a moment in which no user waits; None: no such moment came in time, or it is gone."""
        while self._live.busy and time.monotonic() < copy.until:
            await asyncio.sleep(_LOOK)
        beside = self._live.beside
        if beside is None or beside.rollout.id != copy.rollout or self._live.busy or self._live.draining:
            return None
        return beside

    async def _write(self, beside: Beside, one: Finished, live_seconds: float) -> list[dict[str, Any]] | None:
        """The candidate's answer to what ``one`` answers, with the same seed and settings; None where it gave way."""
        engine, loop, pieces = beside.worker, asyncio.get_running_loop(), asyncio.Queue[Piece]()
        assert isinstance(engine, Writer)
        assert one.again is not None
        started, text, reason = time.monotonic(), "", "error"

        def deliver(piece: Piece) -> None:  # called by the engine's thread
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        try:
            answer = await anyio.to_thread.run_sync(one.again, engine, deliver)
            started = answer.started
            engine.submit(answer)
            while True:
                try:
                    piece = await asyncio.wait_for(pieces.get(), _LOOK)
                except TimeoutError:
                    if self._live.busy or self._live.draining:
                        answer.cancel()
                    continue
                text += piece.text
                if piece.finish_reason is not None:
                    reason = piece.finish_reason
                    break
        except RequestError as error:  # it cannot take what the live version takes
            _log.info("version %s cannot answer a copy: %s", beside.rollout.version, type(error).__name__)
        if reason == "cancelled":
            return None
        seconds = time.monotonic() - started
        kept = (await anyio.to_thread.run_sync(redact_pair, one.prompt, text))[1] if one.stored else None
        alike = agreement(one.answer.stream.text, text) if reason != "error" else 0.0
        return [self._row(beside, one.id, kept, alike, seconds, live_seconds, reason)]

    async def _predict(self, beside: Beside, asked: Asked) -> list[dict[str, Any]]:
        """The candidate's answers to the same records."""
        worker, started = beside.worker, time.monotonic()
        assert isinstance(worker, Predictor)
        count = len(asked.found)
        try:
            rows = await anyio.to_thread.run_sync(asked.parse, worker.schema)
            found: list[Prediction] = await until_done(worker.submit(rows))
        except RequestError as error:
            _log.info("version %s cannot answer a copy: %s", beside.rollout.version, type(error).__name__)
            seconds = (time.monotonic() - started) / count
            return [self._row(beside, id, None, 0.0, seconds, asked.seconds, "error") for id in asked.ids]
        seconds = (time.monotonic() - started) / count
        kept: list[str | None] = [None] * count
        if asked.stored:
            filed = await anyio.to_thread.run_sync(prediction_rows, worker, asked.raw, rows, found, True, started, None)
            kept = [row["text"] for row in filed]
        return [
            self._row(beside, id, text, heads_agree(live, ours), seconds, asked.seconds, "stop")
            for id, text, live, ours in zip(asked.ids, kept, asked.found, found, strict=True)
        ]

    def _row(
        self, beside: Beside, answer: str, text: str | None, alike: float, seconds: float, live_seconds: float, reason: str
    ) -> dict[str, Any]:
        rollout = beside.rollout
        return {
            "id": random_id("shadow"), "answer": answer, "rollout": rollout.id, "version": rollout.version,
            "package": rollout.package, "text": text, "agreement": alike, "seconds": seconds, "live_seconds": live_seconds,
            "finish_reason": reason,
        }


def agreement(live: str, candidate: str) -> float:
    """The share of the longer text up to the first character that differs; 1: they are the same."""
    longer = max(len(live), len(candidate))
    differs = (place for place, (a, b) in enumerate(zip(live, candidate, strict=False)) if a != b)
    return next(differs, min(len(live), len(candidate))) / longer if longer else 1.0


def heads_agree(live: Prediction, candidate: Prediction) -> float:
    """The share of heads that give the same answer; numbers, of vectors too, are the same when they differ by up to 1%."""
    same = [name in candidate and _same(live[name]["answer"], candidate[name]["answer"]) for name in live]
    return sum(same) / len(same)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return abs(a - b) <= _CLOSE * max(abs(a), abs(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
