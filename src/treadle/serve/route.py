"""Which of two versions answers a request: that which is asked for, or else by chance, the same for all requests of one user."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from starlette.requests import Request

from treadle.core.errors import RequestError
from treadle.data.chance import point_of

HEADER = "x-treadle-version"
_chance = random.Random()


def _draw() -> float:
    return _chance.random()


@dataclass
class Route:
    """The way of one request."""

    version: int | None = None
    """The version that was asked for; None: any."""
    who: str | None = None
    """Whose request it is, as far as is known; it is hashed, never kept."""
    drawn: float = field(default_factory=_draw)
    rollout: int | None = None
    """The rollout under which it was drawn who answers, once that is done; None: there is none, or a version was asked for."""

    def point(self, candidate: int) -> float:
        """In [0, 1): below the candidate's share, the candidate answers. As the share grows, who had the candidate keeps it."""
        return self.drawn if self.who is None else point_of(self.who, candidate)


def route_of(request: Request, user: str | None = None) -> Route:
    """By the header ``x-treadle-version``, and the name of the key and ``user`` (OpenAI's field). Raises ``RequestError`` 400."""
    asked = request.headers.get(HEADER)
    if asked is not None and not (asked.isascii() and asked.isdigit() and len(asked) < 10):
        cure = "send the number of the live version or of the candidate, or leave it out"
        raise RequestError(f"{HEADER}: {asked[:40]!r} is no version", field=HEADER, cure=cure)
    key = request.scope.get("treadle.key")
    who = None if key is None and user is None else f"{key.name if key else ''}\0{user or ''}"
    return Route(None if asked is None else int(asked), who)
