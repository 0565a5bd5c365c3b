"""The application: every route, and errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

from treadle.core.errors import RequestError, TreadleError
from treadle.core.project import Project
from treadle.serve.access import Guard
from treadle.serve.answers import record_feedback
from treadle.serve.completions import Desk
from treadle.serve.failures import failure, told
from treadle.serve.flood import FloodGate
from treadle.serve.limits import Accounts
from treadle.serve.live import LiveModel
from treadle.serve.lockout import Lockout
from treadle.serve.monitor import Monitor
from treadle.serve.openapi import add_openapi
from treadle.serve.predictions import described
from treadle.serve.route import route_of
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


Also = Callable[[FastAPI, Inside], None]
"""Adds routes to a server."""


def make_app(
    project: Project, ledger: Ledger, live: LiveModel, monitor: Monitor, host: str, also: Also | None = None,
    others: Sequence[str] = (),
) -> FastAPI:
    """The API and the page of ``project``, answered by ``live``, and what ``also`` adds; ``host`` is the address that is listened
    on, ``others`` are models that the same server has beside it."""
    # FastAPI's own pages about the API load their scripts from elsewhere.
    app = FastAPI(title=project.spec.name, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    settings = project.spec.serve
    _add_model_routes(app, project, live, Desk(project.spec.name, settings, live, ledger, monitor, others))
    _add_feedback(app, project, ledger, monitor)
    watch = app.state.watch = Watch(project, live, monitor)
    _add_health(app, live, ledger, monitor)
    _add_status(app, Status(project, ledger, live, watch))
    add_page(app, project, live)
    add_openapi(app, project, live, host)
    lockout, sessions = Lockout(settings.lockout, ledger, monitor), Sessions()
    if also is not None:
        also(app, Inside(project, ledger, live, monitor, host, lockout, sessions))
    app.add_exception_handler(HTTPException, _no_route)
    for kind in (RequestError, TreadleError, Exception):
        app.add_exception_handler(kind, told)
    app.add_middleware(
        Guard, ledger=ledger, host=host, max_body=longest_body(project.spec),
        lockout=lockout, sessions=sessions,
        accounts=Accounts(ledger, settings.limits, settings.price, project.spec.plan.currency),
    )
    app.add_middleware(WatchRequests, watch=watch)
    return app


class _Plain(Route):
    """A route without what FastAPI does for each request, which is a third of what a prediction takes, and nothing here uses. It
    says in the scope which one it is, as FastAPI's do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    cure = "docs/serve.md lists every route"
    return failure(RequestError(f"{request.method} {request.url.path[:200]}: {error.detail}", status=error.status_code, cure=cure))


def _add_model_routes(app: FastAPI, project: Project, live: LiveModel, desk: Desk) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        version = live.version
        model = {
            "id": project.spec.name, "object": "model", "created": version.since, "owned_by": "treadle",
            "version": version.number, "package": version.package, **described(live.worker),
        }
        adapters = live.worker.adapters.values() if isinstance(live.worker, Writer) else ()
        more = [model | {"id": adapter.name, "parent": model["id"], "sha256": adapter.digest} for adapter in adapters]
        return {"object": "list", "data": [model, *more]}

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
        app.router.routes.append(_Plain(f"/v1/{path}", act, methods=["POST"]))


def _add_feedback(app: FastAPI, project: Project, ledger: Ledger, monitor: Monitor) -> None:
    gate = FloodGate(project.spec.serve.limits, monitor)

    @app.post("/v1/feedback")
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


def _add_health(app: FastAPI, live: LiveModel, ledger: Ledger, monitor: Monitor) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        failed = live.failed.as_dict() if live.failed else None
        detail = {"status": "draining" if live.draining else "ready", "version": live.version.number, "failed": failed}
        return JSONResponse(detail, 503 if live.draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        live.measure()
        monitor.feedback_aside.clear()
        for reason, count in (await anyio.to_thread.run_sync(ledger.feedback_set_aside)).items():
            monitor.feedback_aside.labels(reason).set(count)
        return Response(monitor.text(), media_type=CONTENT_TYPE_LATEST)


def _add_status(app: FastAPI, status: Status) -> None:
    @app.get("/v1/status")
    async def now() -> JSONResponse:
        return JSONResponse(await status.now(), headers={"cache-control": "no-store"})
