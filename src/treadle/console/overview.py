"""What goes on now, and the project that it goes on in."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from treadle.console.desk import Desk
from treadle.report.gather import gather
from treadle.report.scorecards import glance


def add(desk: Desk) -> None:
    """The first page, and that of projects."""

    def now(request: Request) -> Response:
        return desk.page(request, "overview.html", "Overview")

    def projects(request: Request) -> Response:
        return desk.page(request, "projects.html", "Projects", projects=[_project(desk)], others=desk.inside.others)

    desk.get("/console", now)
    desk.get("/console/", lambda request: RedirectResponse("/console", 308))
    desk.get("/console/projects", projects)


def _project(desk: Desk) -> dict[str, Any]:
    """The project that is served here, in figures."""
    facts, spec = gather(desk.project, desk.store, desk.ledger), desk.project.spec
    kinds = [manifest["kind"] for manifest in facts.manifests.values()]
    return {
        "name": spec.name, "folder": desk.project.folder.name, "live": facts.live, "glance": glance(facts),
        "inputs": [(name, given.kind) for name, given in spec.model.inputs.items()],
        "heads": [(name, head.kind) for name, head in spec.model.heads.items()],
        "made": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}, "totals": facts.totals,
    }
