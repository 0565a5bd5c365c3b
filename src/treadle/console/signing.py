"""Signing in with a key, and out again."""

from __future__ import annotations

import re

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from treadle.console.desk import Desk
from treadle.core.errors import RequestError
from treadle.serve import schema
from treadle.serve.audit import note
from treadle.serve.sessions import LIFE, check_origin, cookie_name
from treadle.store.keys import CONSOLE, Key


class SignIn(schema.Request):
    """POST /console/login."""

    key: str = Field(min_length=1, max_length=200)
    """A key with the scope ``console``."""


def add(desk: Desk) -> None:
    """Pages and deeds of signing in and out."""
    sessions, lockout = desk.inside.sessions, desk.inside.lockout

    def form(request: Request) -> Response:
        after = _after(request)
        if desk.local:  # which asks for no key
            return RedirectResponse(after, 303)
        return desk.page(request, "login.html", "Sign in", after=after)

    async def enter(request: Request) -> Response:
        check_origin(request.headers)
        address = request.client.host if request.client else ""
        if not desk.local:
            lockout.check(address)
        said = schema.parse(SignIn, await request.body())
        key = await run_in_threadpool(desk.ledger.find_key, said.key.strip())
        if key is None and not desk.local:
            await lockout.wrong(address)
        name = _admitted(key)
        value, _ = sessions.begin(name)
        await run_in_threadpool(note, desk.ledger, "sign in", {"by": name})
        secure = request.url.scheme == "https"
        response = JSONResponse({"key": name}, headers={"cache-control": "no-store"})
        response.set_cookie(
            cookie_name(secure), value, max_age=int(LIFE), path="/", secure=secure, httponly=True, samesite="strict"
        )
        return response

    async def leave(request: Request) -> Response:
        secure = request.url.scheme == "https"
        await run_in_threadpool(desk.note, request, "sign out")
        sessions.end(request.headers, secure)
        response = JSONResponse({}, headers={"cache-control": "no-store"})
        response.delete_cookie(cookie_name(secure), path="/", secure=secure, httponly=True, samesite="strict")
        return response

    desk.get("/console/login", form)
    desk.post_async("/console/login", enter)
    desk.post_async("/console/logout", leave)


def _admitted(key: Key | None) -> str:
    """The name of a key that opens the console. Raises ``RequestError``."""
    cure = f"the server's owner makes one with 'treadle key add NAME --scope {CONSOLE}'"
    if key is None:
        raise RequestError("the key is not known, or was revoked", status=401, cure=cure)
    if key.expired:
        raise RequestError(f"the key {key.name!r} has expired, at {key.expires:%Y-%m-%d %H:%M} UTC", status=401, cure=cure)
    if CONSOLE not in key.scopes:
        raise RequestError(f"the key {key.name!r} does not open the console", status=403, cure=cure)
    return key.name


def _after(request: Request) -> str:
    """The page of ours that was asked for first; no address of elsewhere."""
    given = request.query_params.get("next", "")
    return given if re.fullmatch(r"/console(/[\w/.?=&%+-]*|\?[\w/.=&%+-]*)?", given) and "//" not in given else "/console"
