"""Drift of what is asked and answered: counts of late, of the live version, held against what its package says is usual."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from treadle.core.errors import TreadleError
from treadle.core.progress import say
from treadle.data.columns import Array
from treadle.data.drift import Verdict
from treadle.data.reference import (
    Reference,
    References,
    Seen,
    Thing,
    load_references,
    seen_inputs,
    seen_outputs,
    seen_tokens,
    watched,
)
from treadle.data.schema import Schema
from treadle.data.shards import END_ID
from treadle.serve.asked import Asked, Predicted, Written
from treadle.serve.predictor import Prediction, Row
from treadle.serve.version import Version
from treadle.store.artifacts import Store

BLOCK, BLOCKS = 500, 4
"""The counts of late are those of the last 1,500 to 2,000 observations: in blocks of 500, of which the oldest is forgotten."""
_FIRST = 500  # lengths of prompts and answers that later ones are compared with, since training does not say what is usual
_ROWS = 256  # records of one request that are looked at
_SPENT = 0.1  # seconds of a processor that one look may take
_WAITING = 256  # requests that wait to be looked at; what is beyond is not looked at
_log = logging.getLogger("treadle.serve")


@dataclass
class _Block:
    counts: Array
    observations: int = 0
    total: float = 0.0
    squares: float = 0.0


class Window:
    """The newest observations of one thing, as counts in its reference's cells: no value is kept."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._blocks: deque[_Block] = deque(maxlen=BLOCKS)

    def add(self, seen: Seen) -> None:
        if not self._blocks or self._blocks[-1].observations >= BLOCK:
            self._blocks.append(_Block(np.zeros(len(self.reference.counts), np.int64)))
        block, lengths = self._blocks[-1], np.ones(len(seen.values)) if seen.lengths is None else seen.lengths.astype(np.float64)
        block.counts += self.reference.count(seen.values)
        block.observations += seen.observations
        block.total += float(lengths.sum())
        block.squares += float((lengths**2).sum())

    def verdict(self, together: int) -> Verdict:
        """Of all blocks, where so many things are judged together."""
        counts = np.sum([block.counts for block in self._blocks], axis=0) if self._blocks else np.zeros(len(self.reference.counts))
        total, squares = (sum(getattr(block, name) for block in self._blocks) for name in ("total", "squares"))
        observations = sum(block.observations for block in self._blocks)
        return self.reference.judge(counts, total**2 / squares if squares else 0.0, observations, together)


class Drift:
    """Looks at requests on a thread of its own, so that none waits for it; where more come than it can look at, at some of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: queue.Queue[Predicted | Written] = queue.Queue(_WAITING)
        self._version: Version | None = None
        self._windows: dict[Thing, Window] = {}
        self._first: dict[Thing, list[float]] = {}
        self.watched = False
        """Whether the live version's package says what is usual."""
        self.verdicts: list[tuple[Thing, Verdict]] = []
        """As of the last look."""

    def note(self, asked: Asked) -> None:
        """Have a request that is over looked at, if there is room."""
        whole: list[Predicted | Written] = [one for one in asked.written if one.finish_reason in ("stop", "length")]
        for one in [*whole, *asked.predicted]:
            try:
                self._asked.put_nowait(one)
            except queue.Full:
                return

    def look(self, live: Version) -> None:
        """Count what waits, as far as it is of the live version, and judge. Called by one thread alone."""
        if live != self._version:
            self._begin(live)
        start, rows = time.thread_time(), list[Predicted]()
        while time.thread_time() - start < _SPENT:
            try:
                one = self._asked.get_nowait()
            except queue.Empty:
                break
            if one.version == live and isinstance(one, Predicted):
                rows.append(one)
            elif one.version == live and isinstance(one, Written):
                self._count_text(one)
        pairs = [pair for one in rows for pair in zip(one.rows[:_ROWS], one.found[:_ROWS], strict=True)]
        for first in range(0, len(pairs), BLOCK):
            if time.thread_time() - start < _SPENT:
                self._count_rows(rows[0].worker.schema, pairs[first : first + BLOCK])
        together = len(self._windows)
        self.verdicts = [(thing, window.verdict(together)) for thing, window in self._windows.items()]

    def _begin(self, live: Version) -> None:
        self._version, self._windows, self._first, found = live, {}, {}, None
        try:
            found = load_references(self._store.folder(live.package))
        except TreadleError as error:
            _log.error("what is usual for version %s cannot be read: %s", live.number, error)
        self.watched = found is not None
        if found is None:
            say(f"Version {live.number} was packaged without figures of its training data: no drift can be told until it is "
                "packaged anew by 'treadle run'")
        self._windows = {thing: Window(reference) for thing, reference in (found or References()).items()}

    def _count_rows(self, schema: Schema, pairs: Sequence[tuple[Row, Prediction]]) -> None:
        """Records and their answers, all at once, which costs a tenth of one after the other."""
        columns = {}
        for name in watched(schema):
            field = schema.inputs[name]
            columns[name] = field.encode([field.value(row) for row, _ in pairs])
        self._count(seen_inputs(schema, columns) | seen_outputs(schema, [answer for _, answer in pairs]))

    def _count_text(self, one: Written) -> None:
        self._count({("input", "text"): seen_tokens([[token for token in one.prompt if token != END_ID]])})
        self._lengths({("input", "prompt length"): len(one.prompt), ("output", "answer length"): one.tokens})

    def _count(self, seen: Mapping[Thing, Seen]) -> None:
        for thing, values in seen.items():
            if thing in self._windows and len(values.values):
                self._windows[thing].add(values)

    def _lengths(self, lengths: Mapping[Thing, int]) -> None:
        """Of a language model's prompts and answers: the first ones of a version say what is usual."""
        for thing, length in lengths.items():
            if thing in self._windows:
                self._windows[thing].add(Seen("numbers", np.array([float(length)])))
                continue
            known = self._first.setdefault(thing, [])
            known.append(float(length))
            if len(known) >= _FIRST and (usual := Reference.of(Seen("numbers", np.array(known)))) is not None:
                self._windows[thing] = Window(usual)
                del self._first[thing]

    def told(self) -> Sequence[dict[str, Any]]:
        """For the status."""
        return [
            {"what": what, "name": name, "statistic": found.statistic, "value": round(found.value, 6), "count": found.count,
             "level": found.level}
            for (what, name), found in self.verdicts
        ]
