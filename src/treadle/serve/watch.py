"""The watch over a server: each request has an id, is counted, logged and traced; drift and alerts are looked for all the time."""

from __future__ import annotations

import logging
import threading

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.core.errors import TreadleError
from treadle.core.project import Project, filled
from treadle.data.reference import Thing
from treadle.serve.alerts import Alerts, Event, conditions
from treadle.serve.asked import HEADER, Asked, reset_asked, set_asked
from treadle.serve.drift import Drift
from treadle.serve.failures import told
from treadle.serve.journal import Journal
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.recent import Tally
from treadle.serve.traces import Tracer
from treadle.serve.webhook import Webhook
from treadle.store.artifacts import Store

LOOK = 1.0  # seconds between looks at drift and alerts
_LEVELS = {"none": 0, "some": 1, "much": 2}
_log = logging.getLogger("treadle.serve")


class Watch:
    """Who hears of each request that is over; and a thread that looks for drift and alerts, as long as ``live`` is not closed."""

    def __init__(self, project: Project, live: LiveModel, monitor: Monitor) -> None:
        """Raises ``UserError`` where ``serve.traces`` needs packages that are not there, or a URL names what the environment
        lacks."""
        settings = project.spec.serve
        self._name, self._live, self.monitor, self._settings = project.spec.name, live, monitor, settings.alerts
        hook, traces = settings.alerts.webhook, settings.traces
        address = None if hook is None else filled(hook, "serve.alerts.webhook")
        self._tracer = None if traces is None else Tracer(filled(traces, "serve.traces"), project.spec.name)
        self._webhook = None if address is None else Webhook(address, settings.alerts.tries)
        self._journal = Journal() if settings.log == "json" else None
        monitor.price = settings.price
        self.drift = Drift(Store(project.store))
        self.alerts = Alerts(settings.alerts.settle, self._tell)
        self._unrecorded, self._counted, self._shown = Tally(), 0, set[Thing]()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._thread.start()

    def ended(self, one: Asked) -> None:
        """A request is over."""
        self.monitor.ended(one)
        self.drift.note(one)
        if self._tracer:
            self._tracer.ended(one)
        if self._journal:
            self._journal.ended(one)

    def close(self) -> None:
        """To be called once ``live`` is closed: what is not sent yet is, for up to a few seconds."""
        self._thread.join()
        for part in (self._webhook, self._tracer, self._journal):
            if part:
                part.close()

    def _tell(self, event: Event) -> None:
        if self._webhook:
            version = self._live.version.number
            text = f"{self._name}: {event.message}{' (this is over)' if event.over else ''}"
            self._webhook.post({**event.as_dict(), "model": self._name, "version": version, "text": text})

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._live.stopping.wait(LOOK):
            try:
                self.look()
            except Exception:  # whatever it is, answers go on
                _log.exception("the watch failed at one look")

    def look(self) -> None:
        """Look for drift and alerts once."""
        self.drift.look(self._live.version)
        monitor, verdicts = self.monitor, self.drift.verdicts
        monitor.drift_watched.set(self.drift.watched)
        for thing, verdict in verdicts:
            monitor.drift.labels(*thing).set(verdict.value)
            monitor.drift_level.labels(*thing).set(_LEVELS[verdict.level])
        for thing in self._shown - (things := {thing for thing, _ in verdicts}):  # of a version that is no longer live
            monitor.drift.remove(*thing)
            monitor.drift_level.remove(*thing)
        self._shown = things
        self._unrecorded.add("lost", monitor.lost - self._counted)
        self._counted = monitor.lost
        self.alerts.look(conditions(self._settings, monitor, self._live, verdicts, self._unrecorded.of("lost")))
        monitor.alerts.set(self.alerts.active)


class WatchRequests:
    """ASGI middleware around every route: gives each request its id, and tells ``watch`` when it is over."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self.app, self.watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        one, begun = Asked.of(scope), False
        token = set_asked(one)

        async def noted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                one.status, begun = message["status"], True
                message = {**message, "headers": [*message.get("headers", ()), (HEADER.encode(), one.id.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if begun or not isinstance(error, HTTPException | TreadleError):
                _log.exception("request %s failed", one.id)
            if begun:
                one.status = 500
                raise  # the connection ends, so that no one takes what there is for the whole
            await told(Request(scope), error)(scope, receive, noted)
        finally:
            self._over(one, scope)
            reset_asked(token)

    def _over(self, one: Asked, scope: Scope) -> None:
        one.end(getattr(scope.get("route"), "path", "other"))
        try:
            self.watch.ended(one)
        except Exception:  # who watches must not break what is watched
            _log.exception("the end of a request could not be noted")

