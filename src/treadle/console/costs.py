"""What it costs: trainings as planned and as they were, and what each key was answered, day by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk
from treadle.report import origins, sections
from treadle.report.gather import Facts, gather
from treadle.spec.units import format_duration

_DAYS = 30


def add(desk: Desk) -> None:
    """The page."""

    def shown(request: Request) -> Response:
        facts, serve = gather(desk.project, desk.store, desk.ledger), desk.project.spec.serve
        since = datetime.now(UTC).date() - timedelta(days=_DAYS - 1)
        uses = [{**row, "money": serve.price.cost(row["tokens"], row["predictions"])} for row in desk.ledger.use_since(since)]
        return desk.page(
            request, "cost.html", "Cost", uses=uses, days=_DAYS, price=serve.price, plan=desk.project.spec.plan,
            total=sum(use["money"] for use in uses), trainings=_trainings(desk, facts), predicted=origins.prediction(facts),
            time=sections.time(facts) if facts.model else "",
        )

    desk.get("/console/cost", shown)


def _trainings(desk: Desk, facts: Facts) -> list[dict[str, Any]]:
    """What each model's training took, at today's prices, the newest first."""
    found = []
    for id, manifest in facts.manifests.items():
        if manifest["kind"] == "model" and "seconds" in manifest["counts"]:
            energy, money = desk.project.spec.plan.cost(manifest["counts"]["seconds"])
            found.append({
                "id": id, "time": format_duration(manifest["counts"]["seconds"]), "energy": f"{energy * 1000:.3g}",
                "money": f"{money:.2g}",
            })
    return found[::-1]
