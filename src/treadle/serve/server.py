"""``treadle serve``: one process that listens, answers, and stops without breaking an answer off."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from treadle.core.errors import UserError
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.core.runtime import choose_runtime
from treadle.serve.api import Also
from treadle.serve.audit import note
from treadle.serve.connection import Connection
from treadle.serve.headers import SecurityHeaders
from treadle.serve.live import settle
from treadle.serve.models import Models, Served, check_apart
from treadle.serve.proxies import Proxied
from treadle.serve.tls import tls_context
from treadle.spec.stages import Serve
from treadle.spec.units import format_duration
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

_FLUSH = 5  # seconds that slow readers are given for the last of their answer


Ready = Callable[[dict[str, str | int]], None]


def run_server(
    project: Project, store: Store, ledger: Ledger, host: str | None = None, port: int | None = None, ready: Ready | None = None,
    also: Also | None = None, others: Sequence[Served] = (),
) -> None:
    """Serve the live version until SIGTERM or SIGINT, then finish the answers under way. A second signal ends them.

    ``others`` are served beside it, each under its own name, from its own ledger; where is listened, by TLS or not, for how long
    is waited, and the page are those of ``project``.
    ``host`` and ``port`` win over ``serve.host`` and ``serve.port``. ``ready`` hears name, version and url once requests are
    answered; ``also`` adds routes. Raises ``UserError`` where nothing is live, the address cannot be listened on, it can be reached
    from elsewhere and no key exists, a key's limit of money has no price, ``serve.tls`` names no certificate and its key, or two
    models have one name or ledger; ``ArtifactError`` for a damaged package.
    """
    settings = project.spec.serve
    host, port = host or settings.host, settings.port if port is None else port
    every = [Served(project, store, ledger), *others]
    check_apart(every)
    for served in every:
        served.check(host)
    tls = tls_context(project.folder, settings.tls) if settings.tls else None
    listener = listen(host, port)
    try:
        choose_runtime("float32")
        with contextlib.closing(Models()) as models:
            app = models.open(every, host, also)
            shown = f"[{host}]" if ":" in host else host
            where = f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"

            def greet() -> None:
                for served, live in zip(every, models.lives, strict=True):
                    note(served.ledger, "start server", {"url": where, "version": live.version.number})
                    say(f"Serving {served.name} version {live.version.number} at {where}")
                if ready:
                    ready({"name": project.spec.name, "version": models.lives[0].version.number, "url": where})

            server = _Server(configure(app, settings, tls), models, settings.drain, greet)
            settle()
            try:
                server.run(sockets=[listener])
            finally:
                if server.started:
                    for served in every:
                        note(served.ledger, "stop server", {"url": where})
    finally:
        listener.close()
        gc.unfreeze()  # so that what is left is closed in order at the end, connections of the ledger among it


def configure(app: ASGIApp, settings: Serve | None = None, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """uvicorn's settings. It writes no access log, which would name addresses and paths: ``serve.log`` says what stands in one."""
    settings = settings or Serve()
    timeouts, guarded = settings.timeouts, SecurityHeaders(app)
    patient = type("Patient", (Connection,), {"timeouts": timeouts})
    return uvicorn.Config(
        Proxied(guarded, settings.proxies) if settings.proxies else guarded,
        http=patient, ws="none", lifespan="off", loop="auto", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=_FLUSH,
        timeout_keep_alive=math.ceil(timeouts.idle),
        ssl_context_factory=(lambda *_: tls) if tls else None,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything heavy is loaded. Raises ``UserError``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        cures = {
            errno.EADDRINUSE: "stop what listens there, or choose another with --port (0: any free one)",
            errno.EACCES: "ports below 1024 are for the administrator; choose a higher one",
            errno.EADDRNOTAVAIL: "this machine does not have that address; set 'serve.host' to one that it has",
        }
        cure = cures.get(error.errno or 0, "check 'serve.host' and 'serve.port'")
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}", cure=cure) from None
    return listener


class _Server(uvicorn.Server):
    """uvicorn, stopped in two steps: first no new answers while those under way are finished, then the end."""

    def __init__(self, config: uvicorn.Config, models: Models, drain: float, greet: Callable[[], None]) -> None:
        super().__init__(config)
        self._models, self._drain, self._greet = models, drain, greet
        self._deadline: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._greet()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._models.draining:
            self._deadline = 0.0
            self.force_exit = True
        self._models.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._models.draining:
            if self._deadline is None:
                self._deadline = time.monotonic() + self._drain
                if self._models.busy:
                    say(f"Stopping; answers under way: {self._models.busy}, with up to {format_duration(self._drain)} to finish")
            if not self._models.busy:
                self.should_exit = True
            elif time.monotonic() >= self._deadline:
                say(f"Time is up; answers broken off: {self._models.busy}")
                self._models.close()
                self.should_exit = True
        return bool(await super().on_tick(counter))
