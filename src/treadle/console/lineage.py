"""What was made from what, and any answer, version or artifact followed back to its data."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk
from treadle.report import origins
from treadle.report.gather import gather
from treadle.report.trace import trace


def add(desk: Desk) -> None:
    """The drawing, and the trace of what is asked for."""

    def shown(request: Request) -> Response:
        asked = request.query_params.get("id", "").strip()[:120]
        found = trace(desk.store, desk.ledger, asked) if asked else None
        drawn = origins.lineage(gather(desk.project, desk.store, desk.ledger)) if found is None else None
        return desk.page(request, "lineage.html", "Lineage", asked=asked, trace=found, drawn=drawn)

    desk.get("/console/lineage", shown)
