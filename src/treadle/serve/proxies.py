"""Whose request it is that comes by a trusted proxy (``serve.proxies``), and whether it came by TLS."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


class Proxied:
    """ASGI middleware around everything, where there are proxies."""

    def __init__(self, app: ASGIApp, proxies: Sequence[str]) -> None:
        self.app, self._trusted = app, [ipaddress.ip_network(proxy) for proxy in proxies]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = address_of(scope["client"][0]) if scope["type"] == "http" and scope.get("client") else None
        if peer is not None and _among(peer, self._trusted):
            said: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": []}
            for name, value in scope["headers"]:
                if name in said:
                    said[name] += value.decode("latin-1").split(",")
            client, scheme = client_of(peer, said[b"x-forwarded-for"], self._trusted), [*said[b"x-forwarded-proto"], ""][-2:][0]
            scope = {**scope, "client": (str(client), 0)}
            if scheme.strip().lower() in ("http", "https"):
                scope["scheme"] = scheme.strip().lower()
        await self.app(scope, receive, send)


def client_of(peer: _Address, forwarded: Sequence[str], trusted: _Networks) -> _Address:
    """From the nearest address on, the first that is no trusted proxy's: each proxy adds whom it heard from at the end, and what
    stands before the first stranger may be the stranger's invention. What is no address ends the search at whoever passed it on."""
    for entry in reversed(forwarded):
        if not _among(peer, trusted):
            break
        before = address_of(entry)
        if before is None:
            break
        peer = before
    return peer


def address_of(text: str) -> _Address | None:
    """The address in an entry of ``X-Forwarded-For``, which may have a port: ``192.0.2.1:8``, ``[2001:db8::1]:8``. One of IPv4 that
    is written as one of IPv6 (RFC 4291, 2.5.5.2), as on sockets for both, is that of IPv4. None: there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _among(address: _Address, networks: _Networks) -> bool:
    return any(address in network for network in networks)
