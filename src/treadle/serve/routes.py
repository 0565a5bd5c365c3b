"""What is answered at which path, without the layers that an application of Starlette's has around its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

Act = Callable[[Request], Awaitable[Response | dict[str, Any]]]
"""Answers a request; an object is answered as JSON."""


class Routes(Router):
    """Starlette's router. What an act raises, and ``HTTPException`` where there is no such route or method, goes up to whoever
    answers for all of it. The scope says as ``route`` which one it is."""

    def __init__(self) -> None:
        super().__init__(redirect_slashes=False)

    def get(self, path: str, act: Act) -> None:
        """Answer a GET of ``path`` by ``act``, and a HEAD, whose body the connection leaves out (RFC 9110, 9.3.2)."""
        self.routes.append(Route(path, _Endpoint(act), methods=["GET"]))

    def post(self, path: str, act: Act) -> None:
        """Answer a POST of ``path``."""
        self.routes.append(Route(path, _Endpoint(act), methods=["POST"]))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # else the router would answer by itself where it has no route
        await super().app(scope, receive, send)


class _Endpoint:
    """An act as an ASGI application."""

    def __init__(self, act: Act) -> None:
        self._act = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = await self._act(Request(scope, receive, send))
        response = JSONResponse(found) if isinstance(found, dict) else found
        await response(scope, receive, send)
