"""The application: every route, and errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from treadle.core.project import Project
from treadle.serve.access import Guard
from treadle.serve.answers import record_feedback
from treadle.serve.completions import Desk
from treadle.serve.flood import FloodGate
from treadle.serve.limits import Accounts
from treadle.serve.live import LiveModel
from treadle.serve.lockout import Lockout
from treadle.serve.monitor import Monitor
from treadle.serve.openapi import add_openapi
from treadle.serve.predictions import described
from treadle.serve.route import route_of
from treadle.serve.routes import Routes
from treadle.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, FeedbackRequest, PredictRequest, parse
from treadle.serve.sessions import Sessions
from treadle.serve.site import add_page
from treadle.serve.status import Status
from treadle.serve.watch import Watch, WatchRequests
from treadle.serve.writer import Writer
from treadle.spec.project import ProjectSpec
from treadle.store.keys import Key
from treadle.store.ledger import Ledger

_BODY = 1_000_000
_MEDIA_BODY = 20_000_000
"""Bytes of a request where ``serve.max_body`` is not given: what telephones photograph is 3 to 12 MB, base64 a third more."""


def longest_body(spec: ProjectSpec) -> int:
    """Most bytes that a request may have."""
    if spec.serve.max_body is not None:
        return spec.serve.max_body
    return _MEDIA_BODY if any(given.kind in ("image", "audio") for given in spec.model.inputs.values()) else _BODY


@dataclass(frozen=True)
class Inside:
    """What a server is made of, for those who add to it."""

    project: Project
    ledger: Ledger
    live: LiveModel
    monitor: Monitor
    host: str
    lockout: Lockout
    sessions: Sessions
    others: Sequence[str] = ()
    """Projects that the same server has beside it."""


Also = Callable[[Routes, Inside], None]
"""Adds routes to a server."""


@dataclass(frozen=True)
class App:
    """ASGI application."""

    routes: Routes
    watch: Watch
    outermost: ASGIApp
    """Around the routes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.outermost(scope, receive, send)


def make_app(
    project: Project, ledger: Ledger, live: LiveModel, monitor: Monitor, host: str, also: Also | None = None,
    others: Sequence[Sequence[str]] = (),
) -> App:
    """The API and the page of ``project``, answered by ``live``, and what ``also`` adds; ``host`` is the address that is listened
    on, ``others`` are models that the same server has beside it, by all their names, the project's first."""
    routes, settings, every = Routes(), project.spec.serve, [name for names in others for name in names]
    _add_model_routes(routes, project, live, Desk(project.spec.name, settings, live, ledger, monitor, every))
    _add_feedback(routes, project, ledger, monitor)
    watch = Watch(project, live, monitor)
    _add_health(routes, live, ledger, monitor)
    _add_status(routes, Status(project, ledger, live, watch))
    add_page(routes, project, live)
    add_openapi(routes, project, live, host)
    lockout, sessions = Lockout(settings.lockout, ledger, monitor), Sessions()
    if also is not None:
        also(routes, Inside(project, ledger, live, monitor, host, lockout, sessions, [names[0] for names in others]))
    accounts = Accounts(ledger, settings.limits, settings.price, project.spec.plan.currency)
    guard = Guard(routes, ledger, host, longest_body(project.spec), accounts, lockout, sessions)
    return App(routes, watch, WatchRequests(guard, watch))


def _add_model_routes(routes: Routes, project: Project, live: LiveModel, desk: Desk) -> None:
    def known() -> list[dict[str, Any]]:
        version = live.version
        model = {
            "id": project.spec.name, "object": "model", "created": version.since, "owned_by": "treadle",
            "version": version.number, "package": version.package, **described(live.worker),
        }
        adapters = live.worker.adapters.values() if isinstance(live.worker, Writer) else ()
        more = [model | {"id": adapter.name, "parent": model["id"], "sha256": adapter.digest} for adapter in adapters]
        return [model, *more]

    async def models(_: Request) -> dict[str, Any]:
        return {"object": "list", "data": known()}

    async def model(request: Request) -> dict[str, Any]:
        wanted = request.path_params["model"]
        found = next((one for one in known() if one["id"] == wanted), None)
        return found or desk.unknown(wanted)

    async def predict(request: Request) -> Response:
        return await desk.predict(parse(PredictRequest, await request.body()), route_of(request))

    async def embeddings(request: Request) -> Response:
        asked = parse(EmbeddingRequest, await request.body())
        return await desk.embed(asked, route_of(request, asked.user))

    async def completions(request: Request) -> Response:
        asked = parse(CompletionRequest, await request.body())
        reply = await desk.complete(asked, route_of(request, asked.user))
        return await reply.response(request.receive)

    async def chat(request: Request) -> Response:
        asked = parse(ChatRequest, await request.body())
        reply = await desk.chat(asked, route_of(request, asked.user))
        return await reply.response(request.receive)

    for path, act in (("predict", predict), ("embeddings", embeddings), ("completions", completions), ("chat/completions", chat)):
        routes.post(f"/v1/{path}", act)
    routes.get("/v1/models", models)
    routes.get("/v1/models/{model:path}", model)


def _add_feedback(routes: Routes, project: Project, ledger: Ledger, monitor: Monitor) -> None:
    gate = FloodGate(project.spec.serve.limits, monitor)

    async def feedback(request: Request) -> dict[str, Any]:
        said = parse(FeedbackRequest, await request.body())
        key: Key | None = request.scope["treadle.key"]
        gate.let(key, request.client.host if request.client else "", said.answer_id)
        by = key.name if key else None
        file = partial(record_feedback, ledger, project.spec.serve.store, said.answer_id, said.rating, said.edited, by)
        edited, found = await anyio.to_thread.run_sync(file)
        monitor.feedback_keys.labels(by or "").inc()
        for kind in filter(None, (said.rating, "edited" if edited is not None else None)):
            monitor.feedback.labels(kind).inc()
        return {"object": "feedback", "answer_id": said.answer_id, "rating": said.rating, "edited": edited, "redacted": dict(found)}

    routes.post("/v1/feedback", feedback)


def _add_health(routes: Routes, live: LiveModel, ledger: Ledger, monitor: Monitor) -> None:
    async def healthz(_: Request) -> dict[str, Any]:
        return {"status": "ok"}

    async def readyz(_: Request) -> JSONResponse:
        failed, stalled = live.failed.as_dict() if live.failed else None, live.stalled
        status = "draining" if live.draining else "stalled" if stalled else "ready"
        detail = {"status": status, "version": live.version.number, "failed": failed, "stalled": stalled}
        return JSONResponse(detail, 200 if status == "ready" else 503)

    async def metrics(_: Request) -> Response:
        live.measure()
        monitor.feedback_aside.clear()
        for reason, count in (await anyio.to_thread.run_sync(ledger.feedback_set_aside)).items():
            monitor.feedback_aside.labels(reason).set(count)
        return Response(monitor.text(), media_type=CONTENT_TYPE_LATEST)

    for path, act in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        routes.get(path, act)


def _add_status(routes: Routes, status: Status) -> None:
    async def now(_: Request) -> JSONResponse:
        return JSONResponse(await status.now(), headers={"cache-control": "no-store"})

    routes.get("/v1/status", now)
