"""Several models on one server: each is a whole application of its own, and each request goes to the one whose model it names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.serve.access import replayed
from treadle.store.ledger import Ledger

_LIST = "/v1/models"
_COOKIE = "treadle_model"


@dataclass(frozen=True)
class Room:
    """One model: its application with guard, limits and page, and the ledger that knows its keys and answers."""

    names: tuple[str, ...]
    """By which requests name it."""
    app: ASGIApp
    ledger: Ledger
    max_body: int
    """Bytes."""


class Hall:
    """ASGI application in front of the ``rooms``, of which the first has what names no model: the page, the health routes.

    - A POST goes where its ``model`` says; feedback where its answer was given; a GET where ``?model=NAME`` says, or what stands
      behind ``/v1/models/``.
    - The console is that of the model that ``?model=NAME`` named last, which a cookie remembers: its links and forms name none.
    - A key opens the room whose ledger knows it, and the others do not hear of it; what names no model goes to the first such room.
    - ``/v1/models`` lists the models of all rooms that the key opens, or on loopback without a key of all.

    A room looks at all of it again, as if it were alone: nothing is let in here. The body of a request whose key no room knows
    is not read.
    """

    def __init__(self, rooms: Sequence[Room], local: bool) -> None:
        self._rooms, self._local = list(rooms), local
        self._largest = max(room.max_body for room in rooms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rooms[0].app(scope, receive, send)
            return
        rooms = await anyio.to_thread.run_sync(self._known, Headers(scope=scope).get("authorization"))
        if rooms and scope["method"] == "GET" and scope["path"] == _LIST:
            await self._list(rooms, scope, receive, send)
            return
        body: list[Message] = []
        if rooms and scope["method"] == "POST":
            body = await self._read(receive)
        room = await self._wanted(rooms, scope, body)
        chosen = _queried(scope) if _is_console(scope) else None
        await room.app(scope, replayed(body, receive), _remembering(send, chosen) if chosen in room.names else send)

    def _known(self, authorization: str | None) -> list[Room]:
        """The rooms that a request with this header may be for; none: the first refuses it."""
        if authorization is None:
            return self._rooms if self._local else []
        key = authorization.partition(" ")[2].strip()
        found = [room for room in self._rooms if room.ledger.find_key(key) is not None]
        return found or (self._rooms if self._local else [])

    async def _wanted(self, rooms: Sequence[Room], scope: Scope, body: Sequence[Message]) -> Room:
        first = rooms[0] if rooms else self._rooms[0]
        said = _said(scope, body)
        name = said.get("model")
        if name is not None:
            return next((room for room in self._rooms if name in room.names), first)
        answer = said.get("answer_id")
        if isinstance(answer, str):
            for room in rooms:
                if await anyio.to_thread.run_sync(room.ledger.answer, answer) is not None:
                    return room
        return first

    async def _read(self, receive: Receive) -> list[Message]:
        """The body's parts up to its end, or until no room takes so much."""
        found, size = [], 0
        while size <= self._largest:
            found.append(await receive())
            size += len(found[-1].get("body", b""))
            if found[-1]["type"] == "http.disconnect" or not found[-1].get("more_body", False):
                break
        return found

    async def _list(self, rooms: Sequence[Room], scope: Scope, receive: Receive, send: Send) -> None:
        """What each of ``rooms`` lists, one after the other; the answer of the first that refuses instead."""
        models: list[Any] = []
        for room in rooms:
            said: list[Message] = []

            async def keep(message: Message, said: list[Message] = said) -> None:
                said.append(message)

            await room.app(dict(scope), receive, keep)
            if said[0]["status"] != 200:
                for message in said:
                    await send(message)
                return
            models += json.loads(b"".join(message.get("body", b"") for message in said))["data"]
        await JSONResponse({"object": "list", "data": models})(scope, receive, send)


def _said(scope: Scope, body: Sequence[Message]) -> dict[str, Any]:
    """What a request says of where it belongs: ``model``, ``answer_id``; nothing where it cannot be read, which a room will say."""
    if _is_console(scope):
        name = _queried(scope) or _remembered(scope)
        return {} if name is None else {"model": name}
    if scope["method"] != "POST":
        if scope["path"].startswith(f"{_LIST}/"):
            return {"model": scope["path"].removeprefix(f"{_LIST}/")}
        return {} if (name := _queried(scope)) is None else {"model": name}
    try:
        said = json.loads(b"".join(part.get("body", b"") for part in body))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_console(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == "/console" or path.startswith("/console/")


def _queried(scope: Scope) -> str | None:
    """What ``?model=`` says."""
    found = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("model")
    return found[0] if found else None


def _remembered(scope: Scope) -> str | None:
    """What the cookie says."""
    try:
        found = SimpleCookie(Headers(scope=scope).get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else unquote(found.value)


def _remembering(send: Send, name: str | None) -> Send:
    """``send``, with a cookie that says ``name``; it chooses a room, and opens none."""
    cookie = f"{_COOKIE}={quote(name or '', safe='')}; Path=/console; HttpOnly; SameSite=Lax"

    async def remembering(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie.encode())]}
        await send(message)

    return remembering
