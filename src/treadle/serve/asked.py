"""The request at hand: its id, whose it is, what answered it, what it took. Every figure, log line and span of it is made from
this."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.version import Version

NO_KEY = "none"
HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True)
class Written:
    """One answer of a language model, however it ended. Times are monotonic seconds; None: it never came so far."""

    id: str
    version: Version
    prompt: Sequence[int]
    """Token ids; never told to anyone."""
    known: int
    """Of them those that an earlier answer had read."""
    tokens: int
    finish_reason: str
    started: float
    begun: float | None
    """When it got its slot."""
    first: float | None
    """When its first token came."""
    ended: float

    @property
    def per_token(self) -> float | None:
        """Seconds for each token behind the first; None where there are none."""
        return (self.ended - self.first) / (self.tokens - 1) if self.first is not None and self.tokens > 1 else None


@dataclass(frozen=True)
class Predicted:
    """Records that were answered together. Times as in ``Written``."""

    worker: Predictor
    rows: Sequence[Row]
    found: Sequence[Prediction]
    """Rows and answers; never told to anyone."""
    started: float
    begun: float | None
    ended: float

    @property
    def version(self) -> Version:
        return self.worker.version


@dataclass
class Asked:
    """One request, from its first line to its last byte."""

    id: str
    method: str = "other"
    route: str = "other"
    """As the application names it, not the path, which anyone can make up."""
    key: str = NO_KEY
    """Its name, which the server's owner chose."""
    status: int = 500
    """What the outermost handler answers where nothing inside did."""
    at: int = field(default_factory=time.time_ns)
    """Unix nanoseconds."""
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    written: list[Written] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)
    filed: list[tuple[float, float]] = field(default_factory=list)
    """When the ledger was waited for, from and to."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """``traceparent`` and ``tracestate``, where they were sent."""

    @classmethod
    def of(cls, scope: Scope) -> Asked:
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        parents = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        method = scope["method"] if scope["method"] in _METHODS else "other"
        return cls(given if _SANE.fullmatch(given) else new_id(), method, parents=parents)

    def end(self, route: str) -> None:
        self.route, self.ended = route, time.monotonic()

    @property
    def version(self) -> Version | None:
        """Which answered it; None where none did."""
        answers: list[Written | Predicted] = [*self.written, *self.predicted]
        return answers[0].version if answers else None

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompts and of answers."""
        return sum(len(one.prompt) for one in self.written), sum(one.tokens for one in self.written)

    @property
    def records(self) -> int:
        return sum(len(one.rows) for one in self.predicted)

    @property
    def finish_reasons(self) -> list[str]:
        return [one.finish_reason for one in self.written]

    def told(self) -> dict[str, Any]:
        """What a log may know of it."""
        read, wrote = self.tokens
        version = self.version
        return {
            "request": self.id, "method": self.method, "route": self.route, "status": self.status,
            "seconds": round(self.ended - self.started, 6), "version": version.number if version else None, "key": self.key,
            "prompt_tokens": read, "answer_tokens": wrote, "records": self.records, "finish_reasons": self.finish_reasons,
        }


_current: ContextVar[Asked | None] = ContextVar("asked", default=None)
set_asked, reset_asked = _current.set, _current.reset


def asked() -> Asked | None:
    """The request at hand; None outside of one."""
    return _current.get()


def new_id() -> str:
    return f"req-{secrets.token_hex(12)}"
