"""Which version answers: follows the ledger, and changes over without dropping a request."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy.engine import RowMapping

from treadle.core.errors import RequestError, TreadleError
from treadle.core.progress import say
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.model.network import load_network
from treadle.serve.line import Asker
from treadle.serve.monitor import Monitor
from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.version import Retired, Version
from treadle.serve.writer import Answer, Writer
from treadle.serve.writers import open_writer
from treadle.spec.stages import Serve
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

Worker = Writer | Predictor
Predictions = Future[list[Prediction]] | asyncio.Future[list[Prediction]]
T = TypeVar("T")

LOOK = 1.0  # seconds between looks at the ledger
RETRY = 30.0  # seconds before a version that would not load is tried again


@dataclass(frozen=True)
class Failed:
    """The version that should be live and cannot be loaded."""

    version: int
    package: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        return {"version": self.version, "package": self.package, "message": self.message}


def settle() -> None:
    """Collect garbage, and leave all that is left out of later collections. What a server loads stays, and is so many objects that
    each full collection would stop every answer for a tenth of a second or two."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class LiveModel:
    """The live version at work, and while they still have requests, the versions before it."""

    def __init__(self, store: Store, ledger: Ledger, settings: Serve, monitor: Monitor) -> None:
        """Load the live version. Raises ``UserError`` where none is, ``ArtifactError`` where it does not open."""
        self._store, self._ledger, self._settings, self._monitor = store, ledger, settings, monitor
        self.failed: Failed | None = None
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
        """Answers that are being written, and that wait, of all versions."""
        workers = (self._worker, *self._retired)
        return sum(worker.active for worker in workers), sum(worker.waiting for worker in workers)

    @property
    def busy(self) -> int:
        """Answers that are being written or wait, of all versions."""
        return sum(self.load)

    def ask(self, make: Callable[[Writer], Answer]) -> tuple[Writer, Answer]:
        """Put what ``make`` prepares in line at the live version. Raises ``RequestError``, ``Full`` among them."""

        def submit(worker: Worker) -> tuple[Writer, Answer]:
            if not isinstance(worker, Writer):
                raise RequestError("this model answers about records, it writes no text", status=404, cure="ask POST /v1/predict")
            answer = make(worker)
            worker.submit(answer)
            return worker, answer

        return self._submit(submit)

    def predict(
        self, parse: Callable[[Schema], Sequence[Row]], few: bool = False, asker: Asker | None = None
    ) -> tuple[Predictor, Sequence[Row], Predictions]:
        """Put records in line at the live version; ``parse`` reads them by its schema. Where there are ``few`` of them, and this is
        the event loop, a quick model answers on it. Raises ``RequestError``."""

        def submit(worker: Worker) -> tuple[Predictor, Sequence[Row], Predictions]:
            if not isinstance(worker, Predictor):
                cure = "ask POST /v1/completions"
                raise RequestError("this model writes text, it does not answer about records", status=404, cure=cure)
            rows = parse(worker.schema)
            return worker, rows, worker.answer(rows, asker) if few and worker.quick else worker.submit(rows, asker)

        return self._submit(submit)

    def _submit(self, submit: Callable[[Worker], T]) -> T:
        while True:
            try:
                return submit(self._worker)
            except Retired:
                if self._stop.is_set():
                    raise RequestError("the server is stopping", status=503, cure="ask again when it is back") from None
                # Another version went live meanwhile: its tokens and columns may differ, so begin again.

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
        for worker in (self._worker, *self._retired):
            worker.stop()

    # -- the watching thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                self._look()
            except Exception as error:  # whatever it is, the version at hand goes on answering
                say(f"Cannot look for a new version: {error}")

    def _look(self) -> None:
        row = self._ledger.live()
        if row is not None and (row["id"] != self._seen or (self.failed and time.monotonic() - self._tried > RETRY)):
            self._seen = row["id"]
            self._change(row)
        left = [worker for worker in self._retired if not worker.done]
        if len(left) < len(self._retired):
            self._retired = left  # what no one holds gives its memory back
            settle()

    def _change(self, row: RowMapping) -> None:
        version, old = _version(row), self._worker
        if (version.number, version.package) == (old.version.number, old.version.package):
            self.failed = None
            return
        self._tried = time.monotonic()
        try:
            fresh = self._load(version)
        except Exception as error:
            message = error.message if isinstance(error, TreadleError) else f"{type(error).__name__}: {error}"
            self.failed = Failed(version.number, version.package, message)
            self._monitor.swaps.labels("failed").inc()
            say(f"Version {version.number} cannot be loaded, version {old.version.number} goes on: {error}")
            return
        self._retired.append(old)
        self._worker = fresh
        old.retire()
        self.failed = None
        self._monitor.swaps.labels("done").inc()
        say(f"Version {version.number} is live; version {old.version.number} finishes its answers")

    def _load(self, version: Version) -> Worker:
        artifact = self._store.open(version.package)
        if (artifact.path / FIELDS_FILE).exists():
            return Predictor(load_network(artifact.path), Schema.load(artifact.path), version, self._settings.queue)
        return open_writer(artifact.path, version, self._settings, self._stop)


def _version(row: RowMapping) -> Version:
    at: datetime = row["at"]
    at = at if at.tzinfo else at.replace(tzinfo=UTC)  # SQLite keeps no zone
    return Version(int(row["version"]), str(row["package"]), int(at.timestamp()))
