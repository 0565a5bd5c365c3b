"""The console at ``/console``: every page, and the files that they load."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from treadle.console import costs, keys, lineage, overview, playground, queue, samples, signing, training
from treadle.console.desk import HEADERS, Desk
from treadle.serve.api import Inside
from treadle.serve.routes import Routes

_PAGES = (overview, playground, queue, training, samples, lineage, keys, costs, signing)
_KINDS = {".css": "text/css", ".js": "text/javascript"}


def add_console(routes: Routes, inside: Inside) -> None:
    """Add ``/console`` and all below it to a server."""
    desk = Desk(routes, inside)
    for page in _PAGES:
        page.add(desk)
    files = [file for file in (resources.files("treadle.console") / "static").iterdir() if file.name.endswith(tuple(_KINDS))]
    for file in (*files, resources.files("treadle.report") / "page.css"):
        name = "report.css" if file.name == "page.css" else file.name
        _add_file(routes, name, file.read_bytes())


def _add_file(routes: Routes, name: str, content: bytes) -> None:
    kind = _KINDS[name[name.rindex("."):]]

    async def give(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS | {"cache-control": "no-cache"})

    routes.get(f"/console/static/{name}", give)
