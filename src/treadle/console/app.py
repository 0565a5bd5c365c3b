"""The console at ``/console``: every page, and the files that they load."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

from treadle.console import costs, keys, lineage, overview, playground, queue, samples, signing, training
from treadle.console.desk import HEADERS, Desk
from treadle.serve.api import Inside

_PAGES = (overview, playground, queue, training, samples, lineage, keys, costs, signing)
_KINDS = {".css": "text/css", ".js": "text/javascript"}


def add_console(app: FastAPI, inside: Inside) -> None:
    """Add ``/console`` and all below it to a server."""
    desk = Desk(app, inside)
    for page in _PAGES:
        page.add(desk)
    files = [file for file in (resources.files("treadle.console") / "static").iterdir() if file.name.endswith(tuple(_KINDS))]
    for file in (*files, resources.files("treadle.report") / "page.css"):
        name = "report.css" if file.name == "page.css" else file.name
        _add_file(app, name, file.read_bytes())


def _add_file(app: FastAPI, name: str, content: bytes) -> None:
    kind = _KINDS[name[name.rindex("."):]]

    async def give() -> Response:
        return Response(content, media_type=kind, headers=HEADERS | {"cache-control": "no-cache"})

    app.add_api_route(f"/console/static/{name}", give, methods=["GET"], include_in_schema=False)
