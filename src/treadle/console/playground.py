"""Two answers side by side, blind: which one is better is said before it is known which is whose."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk
from treadle.core.errors import RequestError
from treadle.serve import schema
from treadle.serve.answers import record_feedback
from treadle.serve.predictions import described
from treadle.serve.writer import Writer

_RATINGS: dict[str, tuple[str, str]] = {
    "left": ("up", "down"), "right": ("down", "up"), "both": ("up", "up"), "neither": ("down", "down"),
}
"""Choice -> what is filed of the left answer, and of the right one."""


class Vote(schema.Request):
    """POST /console/playground/vote."""

    left: str = Field(max_length=80)
    """The id of the answer on the left."""
    right: str = Field(max_length=80)
    """The id of the answer on the right."""
    choice: Literal["left", "right", "both", "neither"]
    """Which is good."""


def add(desk: Desk) -> None:
    """The page, and the vote."""

    def shown(request: Request) -> Response:
        worker, settings = desk.inside.live.worker, desk.project.spec.serve
        columns = [] if isinstance(worker, Writer) else described(worker)["inputs"]
        return desk.page(
            request, "playground.html", "Playground", language=isinstance(worker, Writer), longest=min(96, settings.max_tokens),
            most=settings.max_tokens, store=settings.store, live=desk.inside.live.version.number, columns=columns,
            files=any(column["kind"] in ("image", "audio") for column in columns),
        )

    def vote(request: Request, body: bytes) -> dict[str, Any]:
        said = schema.parse(Vote, body)
        if said.left == said.right:
            raise RequestError("both sides are the same answer", field="right", cure="send the ids of two answers")
        rows = {side: desk.ledger.answer(id) for side, id in (("left", said.left), ("right", said.right))}
        for side, row in rows.items():  # before either is filed
            if row is None:
                raise RequestError(f"there is no answer {getattr(said, side)!r}", status=404, field=side, cure="ask both anew")
        ratings = dict(zip(rows, _RATINGS[said.choice], strict=True))
        for side, rating in ratings.items():
            record_feedback(desk.ledger, desk.project.spec.serve.store, getattr(said, side), rating, None)
            desk.inside.monitor.feedback.labels(rating).inc()
        desk.note(request, "vote", left=said.left, right=said.right, choice=said.choice)
        return {side: _revealed(row) | {"rating": ratings[side]} for side, row in rows.items()}

    desk.get("/console/playground", shown)
    desk.post("/console/playground/vote", vote)


def _revealed(row: Any) -> dict[str, Any]:
    """Whose answer it was, as the ledger has it."""
    return {"version": row["version"], "package": row["package"], "temperature": row["settings"].get("temperature")}
