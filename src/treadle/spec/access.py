"""``serve.limits``, ``price``, ``lockout``, ``timeouts`` and ``tls``: who may ask how much, how slowly, and unheard by whom."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from treadle.spec.fields import Count, Duration, Section

_Some = Annotated[Count, Field(ge=1)]
_Seconds = Annotated[Duration, Field(gt=0)]


def _address(given: str) -> str:
    try:
        return str(ipaddress.ip_network(given, strict=False))
    except ValueError:
        raise ValueError("an address or a network is wanted, as in '10.0.0.7' or '10.0.0.0/8'") from None


Address = Annotated[str, AfterValidator(_address)]
"""One address, or all of a network."""


class Limits(Section):
    """What each key may ask; ``treadle key add --limit`` sets a key's own. What is beyond is answered 429. None: no limit."""

    requests_per_minute: _Some | None = None
    """POST requests within any 60 s."""
    tokens_per_minute: _Some | None = None
    """Tokens of prompts and answers within any 60 s; of ``/v1/predict``, records."""
    concurrent: _Some | None = None
    """Requests under way at once."""
    requests_per_day: _Some | None = None
    """POST requests that were answered, per day (UTC)."""
    tokens_per_day: _Some | None = None
    """Tokens of prompts and answers, per day (UTC); of ``/v1/predict``, records."""
    money_per_day: float | None = Field(default=None, gt=0)
    """What answers may cost per day (UTC), in ``plan.currency``; needs ``serve.price``."""
    weight: float | None = Field(default=None, gt=0)
    """The key's share beside other keys' where requests of several wait: one of 2 has twice as much as one of 1. None: 1."""
    feedback_per_minute: _Some | None = 120
    """Pieces of feedback within any 60 s, also of an address that sends no key; besides, 10 on one answer, whoever sends them."""


class Price(Section):
    """What answers cost, in ``plan.currency``: it is counted against ``limits.money_per_day``."""

    tokens: float | None = Field(default=None, ge=0)
    """Of 1,000 tokens, those of prompts and answers alike."""
    predictions: float | None = Field(default=None, ge=0)
    """Of 1,000 records that ``/v1/predict`` answers about."""

    @property
    def known(self) -> bool:
        """Whether anything costs something."""
        return bool(self.tokens or self.predictions)

    def cost(self, tokens: int, predictions: int) -> float:
        return (tokens * (self.tokens or 0) + predictions * (self.predictions or 0)) / 1000


class Lockout(Section):
    """After wrong keys at speed, requests of their address that need a key are answered 429 unseen. Not on loopback."""

    wrong_keys: int | None = Field(default=20, ge=1)
    """So many within 60 s. None: never, as behind a proxy that ``serve.proxies`` does not name: all requests come from its
    address."""
    duration: _Seconds = 300.0
    """How long the address is locked out (seconds)."""


class Timeouts(Section):
    """How long a client may take (seconds). A slower one is cut off, however much trickles in, so that it holds no place."""

    headers: _Seconds = 10.0
    """To a request's last header, from the connection's opening or its own first byte; then 408."""
    body: _Seconds = 120.0
    """From there to the body's last byte; then 408."""
    idle: _Seconds = 75.0
    """From an answer to the next request's first byte; then the connection is closed. Longer than clients and proxies keep theirs
    for, lest it is closed in the very moment in which they ask again."""
    reading: _Seconds = 60.0
    """While what was written for it waits and it takes next to nothing of that; then the connection is closed."""


class Tls(Section):
    """Serve by TLS alone (https), with these files. They are read when the server starts."""

    certificate: str
    """PEM file with the certificate, followed by those that vouch for it; a relative path is of the project's folder."""
    key: str
    """PEM file with its private key, without a password."""
