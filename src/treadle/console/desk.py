"""What every page of the console has: its frame, who looks at it, how its errors are told, and the audit trail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import treadle
from treadle.core.errors import RequestError, TreadleError, UserError
from treadle.report.html import Html, tag
from treadle.serve.access import is_loopback
from treadle.serve.api import Inside
from treadle.serve.audit import note
from treadle.serve.routes import Routes
from treadle.serve.sessions import Session
from treadle.store.artifacts import Store
from treadle.store.keys import Key

PAGES = (
    ("/console", "Overview"), ("/console/playground", "Playground"), ("/console/feedback", "Feedback"), ("/console/runs", "Runs"),
    ("/console/scorecards", "Scorecards"), ("/console/data", "Data"), ("/console/lineage", "Lineage"), ("/console/keys", "Keys"),
    ("/console/cost", "Cost"), ("/console/projects", "Projects"),
)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-store",
}
Shows = Callable[[Request], Response]
Acts = Callable[[Request, bytes], dict[str, Any]]


class Desk:
    """Adds pages (``get``) and deeds (``post``). Both run beside the event loop, since they read disk and ledger."""

    def __init__(self, routes: Routes, inside: Inside) -> None:
        self._routes = routes
        self.inside, self.project, self.ledger = inside, inside.project, inside.ledger
        self.store = Store(inside.project.store)
        self.local = is_loopback(inside.host)
        # Everything is escaped but what report/html.py made, which escapes by itself.
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("treadle.console"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["moment"] = _moment

    def get(self, path: str, shows: Shows) -> None:
        """What a GET of ``path`` shows. What goes wrong is told on a page."""

        def show(request: Request) -> Response:
            try:
                return shows(request)
            except TreadleError as error:
                status = getattr(error, "status", 400 if isinstance(error, UserError) else 500)
                return self.page(request, "error.html", "That could not be shown", status=status, error=error)

        async def handle(request: Request) -> Response:
            return await anyio.to_thread.run_sync(show, request)

        self._routes.get(path, handle)

    def post(self, path: str, acts: Acts) -> None:
        """What a POST of JSON to ``path`` does. ``UserError`` is answered 400, in OpenAI's form as all of the API is."""

        def act(request: Request, body: bytes) -> dict[str, Any]:
            try:
                return acts(request, body)
            except UserError as error:
                raise error if isinstance(error, RequestError) else RequestError(error.message, cure=error.cure) from None

        async def handle(request: Request) -> Response:
            found = await anyio.to_thread.run_sync(act, request, await request.body())
            return JSONResponse(found, headers={"cache-control": "no-store"})

        self._routes.post(path, handle)

    def post_async(self, path: str, act: Callable[[Request], Awaitable[Response]]) -> None:
        """As ``post``, for what needs the event loop."""

        self._routes.post(path, act)

    def page(self, request: Request, template: str, title: str, status: int = 200, **values: Any) -> Response:
        """``template`` in the console's frame."""
        session = session_of(request)
        frame = {
            "title": title, "name": self.project.spec.name, "pages": PAGES, "path": request.url.path, "session": session,
            "token": session.token if session else self.inside.sessions.local if self.local else "",
            "version": treadle.__version__,
        }
        return HTMLResponse(self.render(template, **frame, **values), status, HEADERS)

    def render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(**values)

    def note(self, request: Request, action: str, **detail: Any) -> None:
        """Add to the audit trail what was done at the console, and by whom."""
        key: Key | None = request.scope.get("treadle.key")
        note(self.ledger, action, {**detail, "by": key.name if key else "this machine"})


def session_of(request: Request) -> Session | None:
    """Who looks at it, where one had to sign in."""
    found: Session | None = request.scope.get("treadle.session")
    return found


def number_of(request: Request, name: str, usual: int = 0) -> int:
    """A whole number from 0 on of the address, ``usual`` where there is none."""
    given = request.query_params.get(name, "")
    return int(given) if given.isdecimal() and len(given) < 9 else usual


def _moment(at: datetime | None) -> Html:
    """A moment in UTC, to the minute."""
    if at is None:
        return Html("")
    at = at.astimezone(UTC)
    return tag("time", f"{at:%Y-%m-%d %H:%M} UTC", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}")
