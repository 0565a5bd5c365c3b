"""The page at ``/`` and the API's at ``/docs``: files of the package, and the facts that they show."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from treadle.core.project import Project
from treadle.serve.live import LiveModel
from treadle.serve.predictions import described
from treadle.serve.routes import Routes

_FILES = {
    "index.html": "text/html", "docs.html": "text/html", "style.css": "text/css", "docs.css": "text/css",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript", "client.js": "text/javascript", "predict.js": "text/javascript", "parts.js": "text/javascript",
    "boxes.js": "text/javascript", "docs.js": "text/javascript",
    "vendor/preact.module.js": "text/javascript", "vendor/htm.module.js": "text/javascript",
}
_PATHS = {"index.html": "/", "docs.html": "/docs"}
"""Of what is no part of another page."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-cache",
}


def add_page(routes: Routes, project: Project, live: LiveModel) -> None:
    """Add ``/`` and ``/docs``, and what they load."""
    folder = resources.files("treadle.serve") / "page"
    for name, kind in _FILES.items():
        response = Response((folder / name).read_bytes(), media_type=kind, headers=_HEADERS)
        routes.get(_PATHS.get(name, f"/page/{name}"), _always(response))

    async def config(_: Request) -> dict[str, Any]:
        settings = project.spec.serve
        return {
            "model": project.spec.name, "version": live.version.number, "store": settings.store,
            "max_tokens": settings.max_tokens, **described(live.worker),
        }

    routes.get("/page/config.json", config)


def _always(response: Response) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def give(_: Request) -> Response:
        return response

    return give
