"""Answers that nothing was said of yet, the newest first: thumbs, and what the answer should have been."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk, number_of
from treadle.console.media import shown
from treadle.serve import schema
from treadle.serve.answers import record_feedback
from treadle.serve.predictions import described

_MOST = 25
_CHOSEN = ("binary", "category")
"""Kinds of head whose right answer is one of few names."""


def add(desk: Desk) -> None:
    """The queue, and what is said there."""

    def waiting(request: Request) -> Response:
        skip = number_of(request, "skip")
        rows = desk.ledger.unjudged(_MOST + 1, skip)
        model = described(desk.inside.live.worker)
        heads = {head["name"]: head for head in model.get("heads", ())}
        days = {given["column"] for given in model.get("inputs", ()) if given["kind"] == "date"}
        answers = [_answer(dict(row), heads, days) for row in rows[:_MOST]]
        later = skip + _MOST if len(rows) > _MOST else None
        return desk.page(
            request, "queue.html", "Feedback", answers=answers, later=later, skip=skip, store=desk.project.spec.serve.store,
            totals=desk.ledger.totals(),
        )

    def say(request: Request, body: bytes) -> dict[str, Any]:
        said = schema.parse(schema.FeedbackRequest, body)
        policy = desk.project.spec.serve.store
        # Filed under no key: what bounds one key's share of a round is meant for users, not for the team. The audit trail has who.
        edited, found = record_feedback(desk.ledger, policy, said.answer_id, said.rating, said.edited)
        for kind in filter(None, (said.rating, "edited" if edited is not None else None)):
            desk.inside.monitor.feedback.labels(kind).inc()
        desk.note(request, "label", answer=said.answer_id, rating=said.rating, edited=edited is not None)
        return {"answer_id": said.answer_id, "rating": said.rating, "edited": edited, "redacted": dict(found)}

    desk.get("/console/feedback", waiting)
    desk.post("/console/feedback", say)


def _answer(row: dict[str, Any], heads: Mapping[str, Mapping[str, Any]], days: set[str]) -> dict[str, Any]:
    """An answer as its card shows it; ``days`` are columns whose numbers are moments."""
    card = {name: row[name] for name in ("id", "at", "version", "prompt", "text")}
    if row["settings"].get("kind") != "prediction":
        return card | {"record": None, "heads": []}
    given, answered = json.loads(row["prompt"]), json.loads(row["text"])
    record = [
        (name, shown(value, name) if isinstance(value, str) else None, _day(value) if name in days else _plain(value))
        for name, value in given.items()
    ]
    return card | {"record": record, "heads": [_head(name, value, heads.get(name, {})) for name, value in answered.items()]}


def _head(name: str, answer: Any, head: Mapping[str, Any]) -> dict[str, Any]:
    choices = list(head.get("choices", ())) if head.get("kind") in _CHOSEN else []
    said = _plain(answer)
    return {"name": name, "answer": said, "choices": choices if said in choices else [], "json": not isinstance(answer, str)}


def _day(value: Any) -> str:
    """A moment that is kept as seconds since 1970; what is none stays as it is."""
    try:
        at = datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return _plain(value)
    return f"{at:%Y-%m-%d}" if at.hour == at.minute == at.second == 0 else f"{at:%Y-%m-%d %H:%M:%S}"


def _plain(value: Any) -> str:
    """A value for people: text as it is, cut where it is long; the rest as JSON."""
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 2000 else f"{said[:2000]}…"
