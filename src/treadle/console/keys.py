"""API keys: who has one, what it opens and how much it was used today; add one, take one out of use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from treadle.console.desk import Desk
from treadle.core.errors import RequestError, UserError
from treadle.serve import schema
from treadle.spec.access import Limits
from treadle.store.keys import SCOPES, USUAL, parse_expiry, parse_limits

_OPENS = {
    "answer": "ask the model", "feedback": "say what an answer was worth", "metrics": "read the server's figures",
    "console": "these pages: all that is stored, and the keys",
}


class NewKey(schema.Request):
    """POST /console/keys."""

    name: str = Field(max_length=80)
    """Who will use it."""
    scopes: list[Annotated[str, Field(max_length=20)]] = Field(max_length=len(SCOPES))
    """What it opens."""
    expires: str = Field(default="", max_length=40)
    """``30 days``, ``2027-01-31``, or nothing: never."""
    limits: list[Annotated[str, Field(max_length=80)]] = Field(default=[], max_length=20)
    """Its own instead of those of ``serve.limits``: ``requests_per_minute=60``."""


class Revoke(schema.Request):
    """POST /console/keys/revoke."""

    name: str = Field(max_length=80)
    """The key's."""


def add(desk: Desk) -> None:
    """The page of keys, and what can be done there."""

    def shown(request: Request) -> Response:
        spec = desk.project.spec
        return desk.page(
            request, "keys.html", "Keys", keys=[_row(desk, key) for key in desk.ledger.list_keys()], usual=USUAL,
            scopes=[(name, _OPENS[name]) for name in SCOPES], limits=list(Limits.model_fields), currency=spec.plan.currency,
        )

    def make(request: Request, body: bytes) -> dict[str, Any]:
        said = schema.parse(NewKey, body)
        if not said.scopes:
            raise RequestError("a key that opens nothing is of no use", field="scopes", cure="tick at least one")
        try:
            until = parse_expiry(said.expires) if said.expires.strip() else None
            own = parse_limits([limit for limit in said.limits if limit.strip()], priced=desk.project.spec.serve.price.known)
        except UserError as error:  # which speaks of the command line's options
            words = error.message.removeprefix("--expires ").removeprefix("--limit ")
            raise RequestError(words, cure=error.cure) from None
        key = desk.ledger.add_key(said.name.strip(), said.scopes, until, own)
        desk.note(request, "add key at console", name=said.name.strip())
        return {"name": said.name.strip(), "key": key}

    def revoke(request: Request, body: bytes) -> dict[str, Any]:
        name = schema.parse(Revoke, body).name
        desk.ledger.revoke_key(name)
        desk.inside.sessions.end_all(name)
        desk.note(request, "revoke key at console", name=name)
        return {"name": name}

    desk.get("/console/keys", shown)
    desk.post("/console/keys", make)
    desk.post("/console/keys/revoke", revoke)


def _row(desk: Desk, key: dict[str, Any]) -> dict[str, Any]:
    """A key as its row shows it."""
    today, names = key["today"], {row.name for row in desk.ledger.live_keys()}
    state = "revoked" if key["revoked"] else "live" if key["name"] in names else "expired"
    own = [f"{name}: {'none' if value is None else f'{value:g}'}" for name, value in key["limits"].items()]
    return {**key, "state": state, "own": own, "money": desk.project.spec.serve.price.cost(today["tokens"], today["predictions"])}
