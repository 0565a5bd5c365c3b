"""Which version answers: follows the ledger, and changes over without dropping a request."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.engine import RowMapping

from treadle.core.errors import RequestError, TreadleError, UserError
from treadle.core.progress import say
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.model.network import load_network
from treadle.serve.harm import Harm
from treadle.serve.line import Asker
from treadle.serve.monitor import Monitor
from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.route import HEADER, Route
from treadle.serve.version import Full, Retired, Version
from treadle.serve.writer import Answer, Writer
from treadle.serve.writers import open_writer
from treadle.spec.stages import Serve
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger
from treadle.store.rollouts import Rollout

Worker = Writer | Predictor
Predictions = Future[list[Prediction]] | asyncio.Future[list[Prediction]]
T = TypeVar("T")

LOOK = 1.0  # seconds between looks at the ledger
RETRY = 30.0  # seconds before a version that would not load is tried again


@dataclass(frozen=True)
class Failed:
    """The version that should be live, or the candidate, which cannot be loaded."""

    version: int
    package: str
    message: str
    role: str = "live"

    def as_dict(self) -> dict[str, Any]:
        return {"version": self.version, "package": self.package, "message": self.message, "role": self.role}


@dataclass(frozen=True)
class Beside:
    """A candidate at work beside the live version."""

    worker: Worker
    rollout: Rollout
    harm: Harm


def settle() -> None:
    """Collect garbage, and leave all that is left out of later collections. What a server loads stays, and is so many objects that
    each full collection would stop every answer for a tenth of a second or two."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class LiveModel:
    """The live version at work, a candidate beside it where there is one, and while they still have requests, earlier versions."""

    def __init__(self, store: Store, ledger: Ledger, settings: Serve, monitor: Monitor, folder: Path = Path()) -> None:
        """Load the live version; ``folder`` is the project's. Raises ``UserError`` where none is, or an adapter does not fit it,
        and ``ArtifactError`` where it does not open."""
        self._store, self._ledger, self._settings, self._monitor, self._folder = store, ledger, settings, monitor, folder
        self._failures: dict[str, Failed] = {}
        self._beside: Beside | None = None
        self._beside_tried = (0, 0.0)  # which rollout's candidate could not be loaded, and when that was
        self.draining = False
        self._retired: list[Worker] = []
        self._tried = 0.0
        self._stop = threading.Event()
        row = ledger.must_be_live()
        self._seen = row["id"]
        self._worker = self._load(_version(row))
        self._watcher = threading.Thread(target=self._watch, name="live-model", daemon=True)
        self._watcher.start()

    @property
    def worker(self) -> Worker:
        """What takes new requests."""
        return self._worker

    @property
    def version(self) -> Version:
        """What answers new requests."""
        return self._worker.version

    @property
    def stopping(self) -> threading.Event:
        """Set when it is being closed."""
        return self._stop

    @property
    def load(self) -> tuple[int, int]:
        """Answers for users that are being written, and that wait, of all versions."""
        workers = self._answering()
        return sum(worker.active for worker in workers), sum(worker.waiting for worker in workers)

    @property
    def busy(self) -> int:
        """Answers for users that are being written or wait, of all versions."""
        return sum(self.load)

    @property
    def failed(self) -> Failed | None:
        """What should be at work and cannot be loaded: the live version, or else the candidate."""
        return self._failures.get("live") or self._failures.get("candidate")

    @property
    def beside(self) -> Beside | None:
        """The candidate."""
        return self._beside

    @property
    def _candidate(self) -> Beside | None:
        """The candidate, where users get its answers."""
        beside = self._beside
        return beside if beside is not None and beside.rollout.answers else None

    def roles(self) -> list[dict[str, Any]]:
        """Every version at work: ``version``, ``package``, ``since``, ``role`` (live, canary, shadow, ab, or retired), ``share``
        of requests (of a shadow, those that are copied), ``active`` and ``waiting`` answers."""
        beside, live = self._beside, self._worker
        found = [(live, "live", 1 - beside.rollout.share if beside and beside.rollout.answers else 1.0)]
        found += [(beside.worker, beside.rollout.kind, beside.rollout.share)] if beside else []
        found += [(worker, "retired", 0.0) for worker in self._retired if worker is not live]
        return [
            {"version": w.version.number, "package": w.version.package, "since": w.version.since, "role": role, "share": share,
             "active": w.active, "waiting": w.waiting}
            for w, role, share in found
        ]

    def ended(self, rollout: int | None, version: int, whole: bool) -> None:
        """Count an answer that was drawn under ``rollout``: ``whole``, or failed."""
        candidate = self._candidate
        if candidate is not None and rollout == candidate.rollout.id:
            candidate.harm.ended(version == candidate.rollout.version, whole)

    def _answering(self) -> tuple[Worker, ...]:
        candidate = self._candidate
        return (self._worker, *((candidate.worker,) if candidate else ()), *self._retired)

    def ask(self, make: Callable[[Writer], Answer], route: Route) -> tuple[Writer, Answer]:
        """Put what ``make`` prepares in line where ``route`` leads to. Raises ``RequestError``, ``Full`` among them."""

        def submit(worker: Worker) -> tuple[Writer, Answer]:
            if not isinstance(worker, Writer):
                raise RequestError("this model answers about records, it writes no text", status=404, cure="ask POST /v1/predict")
            answer = make(worker)
            worker.submit(answer)
            return worker, answer

        return self._submit(submit, route)

    def predict(
        self, parse: Callable[[Schema], Sequence[Row]], route: Route, few: bool = False, asker: Asker | None = None
    ) -> tuple[Predictor, Sequence[Row], Predictions]:
        """Put records in line where ``route`` leads to; ``parse`` reads them by that version's schema. Where there are ``few`` of
        them, and this is the event loop, a quick model answers on it. Raises ``RequestError``."""

        def submit(worker: Worker) -> tuple[Predictor, Sequence[Row], Predictions]:
            if not isinstance(worker, Predictor):
                cure = "ask POST /v1/completions"
                raise RequestError("this model writes text, it does not answer about records", status=404, cure=cure)
            rows = parse(worker.schema)
            return worker, rows, worker.answer(rows, asker) if few and worker.quick else worker.submit(rows, asker)

        return self._submit(submit, route)

    def _submit(self, submit: Callable[[Worker], T], route: Route) -> T:
        full = False
        while True:
            worker = self._worker if full else self._pick(route)
            try:
                return submit(worker)
            except Full:
                if full or route.version is not None or worker is self._worker:
                    raise
                full, route.rollout = True, None  # the candidate has no room: the live version helps out, which counts for neither
            except Retired:
                if self._stop.is_set():
                    raise RequestError("the server is stopping", status=503, cure="ask again when it is back") from None
                # Another version went live meanwhile: its tokens and columns may differ, so begin again.

    def _pick(self, route: Route) -> Worker:
        """Who answers; ``route`` is told under which rollout that was drawn. Raises ``RequestError`` 404."""
        live, beside = self._worker, self._beside
        candidate = beside if beside is not None and beside.rollout.answers else None
        route.rollout = None
        if route.version is not None:
            workers: list[Worker] = [live, candidate.worker] if candidate else [live]
            for worker in workers:
                if worker.version.number == route.version:
                    return worker
            other = f", or {candidate.rollout.version} for the candidate" if candidate else ""
            cure = f"ask for {live.version.number}, the live one{other}, or leave it out"
            raise RequestError(f"version {route.version} does not answer here", status=404, field=HEADER, cure=cure)
        if beside is None:
            return live
        route.rollout = beside.rollout.id
        return candidate.worker if candidate and route.point(beside.rollout.version) < beside.rollout.share else live

    @property
    def stalled(self) -> str | None:
        """Why the live version can begin no answer, and what is done about it; None: it can."""
        return self._worker.stalled if isinstance(self._worker, Writer) else None

    def measure(self) -> None:
        """Bring the gauges up to date."""
        active, waiting = self.load
        self._monitor.active.set(active)
        self._monitor.queue.set(waiting)
        self._monitor.version.set(self._worker.version.number)
        self._monitor.swap_failed.set(self.failed is not None)

    def close(self) -> None:
        """Cancel what is left and end all threads."""
        self._stop.set()
        self._watcher.join()
        for worker in (self._worker, *((self._beside.worker,) if self._beside else ()), *self._retired):
            worker.stop()

    # -- the watching thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                self._look()
            except Exception as error:  # whatever it is, the version at hand goes on answering
                say(f"Cannot look for a new version: {error}")

    def _look(self) -> None:
        rollout, row = self._ledger.rollout(), self._ledger.live()
        stuck = "live" in self._failures and time.monotonic() - self._tried > RETRY
        if row is not None and (row["id"] != self._seen or stuck):
            self._seen = row["id"]
            self._change(row)
        self._follow(None if rollout and rollout.package == self.version.package else rollout)
        left = [worker for worker in self._retired if not worker.done]
        if len(left) < len(self._retired):
            self._retired = left  # what no one holds gives its memory back
            settle()

    def _change(self, row: RowMapping) -> None:
        version, old = _version(row), self._worker
        if (version.number, version.package) == (old.version.number, old.version.package):
            self._failures.pop("live", None)
            return
        self._tried = time.monotonic()
        beside = self._beside
        if beside is not None and beside.rollout.package == version.package:  # the candidate goes live: it is at work already
            fresh: Worker | None = beside.worker
        else:
            fresh = self._try(version, "live")
        if fresh is None:
            return
        fresh.version = version
        self._retired.append(old)
        self._worker = fresh
        if beside is not None and beside.worker is fresh:
            self._beside = None
        old.retire()
        self._failures.pop("live", None)
        self._monitor.swaps.labels("done").inc()
        say(f"Version {version.number} is live; version {old.version.number} finishes its answers")

    def _follow(self, rollout: Rollout | None) -> None:
        """Have the candidate of ``rollout`` beside the live version, and no other."""
        beside = self._beside
        if beside is not None and rollout is not None and beside.rollout.id == rollout.id and beside.harm.reason:
            self._ledger.stop_rollout(beside.harm.reason, only=rollout.id)
            say(f"Version {rollout.version} is taken out: {beside.harm.reason}")
            rollout = None
        if beside is not None and (rollout is None or beside.rollout.package != rollout.package):
            self._retired.append(beside.worker)
            self._beside = None
            beside.worker.retire()
            say(f"Version {beside.rollout.version} takes no more requests; it finishes its answers")
        elif beside is not None and rollout is not None and beside.rollout.id != rollout.id:
            self._beside = replace(beside, rollout=rollout, harm=Harm(rollout))
        if rollout is None or self._beside is not None:
            self._failures.pop("candidate", None)
            return
        tried, when = self._beside_tried
        if tried == rollout.id and time.monotonic() - when < RETRY:
            return
        self._beside_tried = (rollout.id, time.monotonic())
        fresh = self._try(Version(rollout.version, rollout.package, int(rollout.at.timestamp())), "candidate")
        if fresh is not None:
            self._beside = Beside(fresh, rollout, Harm(rollout))
            self._failures.pop("candidate", None)
            self._monitor.swaps.labels("done").inc()
            say(f"Version {rollout.version} stands beside version {self.version.number}: {rollout.kind}, {rollout.share:.0%}")

    def _try(self, version: Version, role: str) -> Worker | None:
        """The version at work, or None, told and counted, where it cannot be loaded."""
        try:
            fresh = self._load(version)
            if role == "candidate" and type(fresh) is not type(self._worker):
                fresh.stop()
                cure = "promote it: clients ask both kinds of model by other routes"
                raise UserError("a model that writes text and one that answers about records do not stand side by side", cure=cure)
            return fresh
        except Exception as error:
            message = error.message if isinstance(error, TreadleError) else f"{type(error).__name__}: {error}"
            self._failures[role] = Failed(version.number, version.package, message, role)
            self._monitor.swaps.labels("failed").inc()
            say(f"Version {version.number} cannot be loaded, version {self.version.number} goes on: {error}")
            return None

    def _load(self, version: Version) -> Worker:
        artifact = self._store.open(version.package)
        if (artifact.path / FIELDS_FILE).exists():
            if self._settings.adapters:
                raise UserError("adapters are of models that write text", cure="leave serve.adapters out")
            return Predictor(load_network(artifact.path), Schema.load(artifact.path), version, self._settings.queue)
        return open_writer(artifact.path, version, self._settings, self._folder, self._stop)


def _version(row: RowMapping) -> Version:
    at: datetime = row["at"]
    at = at if at.tzinfo else at.replace(tzinfo=UTC)  # SQLite keeps no zone
    return Version(int(row["version"]), str(row["package"]), int(at.timestamp()))
