"""What every response says to browsers: take it for what it is, load nothing for it, tell no one where it was linked from."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.serve.access import is_loopback

PLAIN = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_TLS = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeaders:
    """ASGI middleware around everything: adds what a response does not say itself, as the page does with its own policy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A browser would take it for all ports of localhost, where others serve without TLS.
        far = scope["scheme"] == "https" and not is_loopback(Headers(scope=scope).get("host", "").partition(":")[0])
        wanted = (*PLAIN, _TLS) if far else PLAIN

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                said = {key.lower() for key, _ in given}
                message = {**message, "headers": [*given, *(pair for pair in wanted if pair[0] not in said)]}
            await send(message)

        await self.app(scope, receive, complete)
