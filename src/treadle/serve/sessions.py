"""Who is signed in in a browser: sessions of keys, kept on this side alone and forgotten when the server ends."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers

from treadle.core.errors import RequestError

LIFE = 8 * 3600.0
"""Seconds after which one signs in anew."""
MOST = 256
"""Sessions at once; one more ends the oldest."""
TOKEN = "x-treadle-token"
"""The header in which a page sends its session's token, which no page of another site can know."""
_COOKIES = {False: "treadle-session", True: "__Host-treadle-session"}
"""By whether the connection is encrypted. A browser takes the second from such a one alone, and from no neighbouring host."""


@dataclass(frozen=True)
class Session:
    """``token`` stands in every page of it, ``until`` is a reading of the clock."""

    key: str
    """The name of the key that was signed in with."""
    token: str
    until: float


class Sessions:
    """The sessions of one server. A cookie holds 256 random bits; here lies its hash."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self.local = secrets.token_urlsafe(32)
        """The token of pages that are asked for without a session, as one may on loopback."""

    def begin(self, key: str) -> tuple[str, Session]:
        """A new session of the key named ``key``, and its cookie's value."""
        self._forget()
        while len(self._sessions) >= MOST:
            self._sessions.popitem(last=False)
        value = secrets.token_urlsafe(32)
        session = Session(key, secrets.token_urlsafe(32), self._clock() + LIFE)
        self._sessions[_hash(value)] = session
        return value, session

    def find(self, headers: Headers, secure: bool) -> Session | None:
        """The session whose cookie stands in ``headers``."""
        self._forget()
        return self._sessions.get(_hash(cookie_of(headers, secure)))

    def end(self, headers: Headers, secure: bool) -> None:
        """From now on that cookie opens nothing."""
        self._sessions.pop(_hash(cookie_of(headers, secure)), None)

    def end_all(self, key: str) -> None:
        """End every session of the key named ``key``."""
        for hashed in [hashed for hashed, session in self._sessions.items() if session.key == key]:
            del self._sessions[hashed]

    def _forget(self) -> None:
        while self._sessions and next(iter(self._sessions.values())).until <= self._clock():
            self._sessions.popitem(last=False)


def cookie_name(secure: bool) -> str:
    return _COOKIES[secure]


def cookie_of(headers: Headers, secure: bool) -> str:
    """The value of the session's cookie; empty where there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(cookie_name(secure))
    except CookieError:
        return ""
    return found.value if found else ""


def check_token(headers: Headers, token: str) -> None:
    """Raises ``RequestError`` 403 where a request was not made by one of our own pages, as its headers say."""
    check_origin(headers)
    if not hmac.compare_digest(headers.get(TOKEN, "").encode(), token.encode()):
        raise RequestError("this page is of an earlier session", status=403, cure="load the page anew, and do it again")


def check_origin(headers: Headers) -> None:
    """Raises ``RequestError`` 403 where a browser says that another site asks. What is no browser says nothing of that."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    other = origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    if site not in (None, "same-origin") or other:
        raise RequestError("a page of another site asks for this", status=403, cure="do it on the console's own page")


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
