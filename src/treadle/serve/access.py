"""Who may ask: anyone on this machine, elsewhere whoever has a key; and no web page of another site."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from urllib.parse import quote

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.core.errors import RequestError, TreadleError, UserError
from treadle.serve.asked import asked
from treadle.serve.failures import told
from treadle.serve.known import Known
from treadle.serve.limits import Accounts, Taken
from treadle.serve.lockout import Lockout
from treadle.serve.sessions import Session, Sessions, check_token
from treadle.store.keys import CONSOLE, Key
from treadle.store.ledger import Ledger

_NAMES = ("localhost", "127.0.0.1", "[::1]")
_OPEN = ("/", "/docs", "/healthz", "/readyz", "/console/login")
_DISCARD = 16  # times the limit of a body that is read and thrown away, so that a client still reads why it was refused
_PATIENCE = 5.0  # seconds that this may take


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_keys(host: str, ledger: Ledger) -> None:
    """Raises ``UserError`` where ``host`` can be reached from elsewhere and no one has a key."""
    if not is_loopback(host) and not ledger.live_keys():
        message = f"{host} can be reached from other machines, and there is no key to ask with"
        raise UserError(message, cure="make one with 'treadle key add NAME', or serve on 127.0.0.1")


class Guard:
    """ASGI middleware in front of every route.

    - A request must say in one way only for whom it is and where it ends, lest another be smuggled in behind it.
    - On loopback the Host header must name this machine, so that a web page cannot reach the server under a name of its own
      that it points here (DNS rebinding). Beyond loopback any name will do, as a key is demanded.
    - A key is demanded beyond loopback; on loopback one that is sent must be right, if the ledger has any. The page's files
      and the two health routes are open. A key opens only the routes of its scopes, and none once it has expired.
    - A browser that has signed in at the console is known by its session's cookie, as long as the key that it signed in with is
      good. As a browser sends cookies by itself, a POST must then bring the token that only pages of that session have (CSRF); so
      must what changes something at the console of a server that asks for no key.
    - An address that wrong keys came from at speed is not heard for a while, where a key is demanded.
    - A POST of a key is held against its limits.
    - A POST must say that it is JSON, which a form of another site cannot (CSRF), and be no longer than ``max_body`` bytes.
    """

    def __init__(
        self, app: ASGIApp, ledger: Ledger, host: str, max_body: int, accounts: Accounts, lockout: Lockout, sessions: Sessions
    ) -> None:
        self.app, self.ledger, self.max_body = app, ledger, max_body
        self.accounts, self.lockout, self.sessions, self.known = accounts, lockout, sessions, Known(ledger)
        self.local = is_loopback(host)
        self.names = {*_NAMES, f"[{host}]" if ":" in host else host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            _check_framing(headers)
            self._check_host(headers)
            key = None if _is_open(scope["path"]) else await self._check_key(headers, scope)
            scope["treadle.key"] = key
            if key is not None and (one := asked()) is not None:
                one.key = key.name
            if scope["method"] != "POST":
                await self.app(scope, receive, send)
            elif key is None:
                await self._post(headers, scope, receive, send)
            else:
                async with self.accounts.asking(key) as taken:
                    await self._post(headers, scope, receive, _noting(send, taken))
        except TreadleError as error:  # not a RequestError where the ledger, which knows the keys, cannot be read
            request = Request(scope)
            refusal = _to_sign_in(request) if getattr(error, "status", 0) == 401 else None
            await (refusal or told(request, error))(scope, receive, send)

    async def _post(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        _check_kind(headers)
        await self.app(scope, await self._whole_body(headers, receive), send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.get("host", "")
        name = given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given
        if self.local and name.lower() not in self.names:
            cure = "ask for localhost or 127.0.0.1; to serve other machines, set serve.host and make a key"
            raise RequestError(f"this server answers to this machine only, not as {given[:100]!r}", status=421, cure=cure)

    async def _check_key(self, headers: Headers, scope: Scope) -> Key | None:
        """Whose request it is; None where no key is needed and none was sent that could be told. Raises ``RequestError``."""
        given = headers.get("authorization")
        if given is None and self.local:
            if scope["method"] not in ("GET", "HEAD") and _is_console(scope["path"]):
                check_token(headers, self.sessions.local)
            return None
        address = scope["client"][0] if scope.get("client") else ""
        if not self.local:
            self.lockout.check(address)
        if given is None and (session := self.sessions.find(headers, scope["scheme"] == "https")):
            return await self._check_session(session, headers, scope)
        cure = "send 'Authorization: Bearer KEY'; the server's owner makes one with 'treadle key add NAME'"
        if given is None:
            raise RequestError("a key is needed", status=401, cure=cure)
        scheme, _, secret = given.partition(" ")
        if scheme.lower() != "bearer":
            raise RequestError("the key is not sent as one", status=401, cure=cure)
        # OpenAI's clients cannot but send a key: where none is demanded and there is none that could be right, any will do.
        if self.local and not await self.known.any_live():
            return None
        key = await self.known.find(secret.strip())
        if key is None:
            if not self.local:
                await self.lockout.wrong(address)
            raise RequestError("the key is not known, or was revoked", status=401, cure=cure)
        if key.expires is not None and key.expired:
            message = f"the key {key.name!r} has expired, at {key.expires:%Y-%m-%d %H:%M} UTC"
            raise RequestError(message, status=401, cure="the server's owner makes another with 'treadle key add NAME'")
        path = scope["path"]
        if (wanted := scope_of(path)) not in key.scopes:
            has = ", ".join(sorted(key.scopes))
            cure = f"it has {has}; the server's owner makes another with 'treadle key add NAME --scope {wanted}'"
            raise RequestError(f"the key {key.name!r} lacks the scope {wanted!r}, which {path[:100]} needs", status=403, cure=cure)
        return key

    async def _check_session(self, session: Session, headers: Headers, scope: Scope) -> Key:
        """The key of ``session``, which opens every route: who has the console could make a key that does. Raises
        ``RequestError``."""
        if scope["method"] not in ("GET", "HEAD"):
            check_token(headers, session.token)
        live = await anyio.to_thread.run_sync(self.ledger.live_keys)
        key = next((key for key in live if key.name == session.key and CONSOLE in key.scopes), None)
        if key is None:
            self.sessions.end_all(session.key)
            message = f"the key {session.key!r}, which you signed in with, was revoked or has expired"
            raise RequestError(message, status=401, cure="sign in with another")
        scope["treadle.session"] = session
        return key

    async def _whole_body(self, headers: Headers, receive: Receive) -> Receive:
        """The body, read to its end or to its limit, as a ``receive`` that gives it again."""
        length = headers.get("content-length", "0")
        size = int(length) if length.isdigit() else 0
        message = f"the body is over {self.max_body} bytes"
        too_long = RequestError(message, status=413, cure="send less; 'serve.max_body' is the limit")
        if size > self.max_body:
            await _discard(receive, size if size <= _DISCARD * self.max_body else 0)
            raise too_long
        content, more = bytearray(), True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                raise RequestError("the client went away before its request was whole")  # which no one hears
            content += part.get("body", b"")
            more = part.get("more_body", False)
            if len(content) > self.max_body:
                await _discard(receive, _DISCARD * self.max_body if more else 0)
                raise too_long
        return replayed([{"type": "http.request", "body": bytes(content), "more_body": False}], receive)


def replayed(messages: Sequence[Message], receive: Receive) -> Receive:
    """A ``receive`` that gives what was read already, and then goes on."""
    left = list(messages)

    async def again() -> Message:
        return left.pop(0) if left else await receive()

    return again


def scope_of(path: str) -> str:
    """What a key must open for this path."""
    if _is_console(path):
        return CONSOLE
    return {"/metrics": "metrics", "/v1/status": "metrics", "/v1/feedback": "feedback"}.get(path, "answer")


def _is_console(path: str) -> bool:
    return path == "/console" or path.startswith("/console/")


def _to_sign_in(request: Request) -> Response | None:
    """Where a browser goes that asks for a page of the console and is not signed in."""
    page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if not (page and _is_console(request.url.path)):
        return None
    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/console/login?next={quote(where, safe='')}", 303)


def _noting(send: Send, taken: Taken) -> Send:
    """``send``, noting in ``taken`` whether the request was answered rather than refused."""

    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            taken.answered = message["status"] < 400
        await send(message)

    return noted


def _is_open(path: str) -> bool:
    files = path.startswith(("/page/", "/console/static/"))
    return path in _OPEN or (files and path != "/page/config.json")


class Ambiguous(RequestError):
    """Whose request it is, or where it ends, can be read in two ways: the connection is closed, lest what follows belong to it."""

    closes = True


def _check_framing(headers: Headers) -> None:
    """A proxy that reads one of two lengths, or of two names, before a server that reads the other lets a request through unseen
    (RFC 9112, 3.2 and 6.1)."""
    codings = headers.getlist("transfer-encoding")
    if codings and "content-length" in headers:
        raise Ambiguous("the request has both Content-Length and Transfer-Encoding", cure="send one of them")
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise Ambiguous("the request's Transfer-Encoding is another than 'chunked'", cure="send 'chunked', or Content-Length")
    if len(headers.getlist("host")) > 1:
        raise Ambiguous("the request has more than one Host", cure="send one")


def _check_kind(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the body's Content-Type is {kind[:100] or 'not given'}"
        raise RequestError(message, status=415, cure="send 'Content-Type: application/json'")


async def _discard(receive: Receive, most: int) -> None:
    """Read up to ``most`` bytes more and forget them."""
    end = time.monotonic() + _PATIENCE
    with anyio.move_on_after(_PATIENCE):
        while most > 0 and time.monotonic() < end:
            message = await receive()
            most -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
