"""Who is told by a trusted proxy to be the client is it, and no one can make a client up."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from treadle.serve.proxies import Proxied, address_of, client_of

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"), ip_network("2001:db8:1::/48")]
PROXY = ip_address("10.0.0.1")
addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@pytest.mark.parametrize(("text", "found"), [
    ("203.0.113.9", "203.0.113.9"), (" 203.0.113.9 ", "203.0.113.9"), ("203.0.113.9:4711", "203.0.113.9"),
    ("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:80", "2001:db8::1"),
    ("::ffff:203.0.113.9", "203.0.113.9"), ("[::ffff:203.0.113.9]:1", "203.0.113.9"), ("203.0.113.9:x", "203.0.113.9"),
    ("unknown", None), ("", None), ("_hidden", None), ("203.0.113", None),
    ("203.0.113.9.1", None), ("203.0.113.9 203.0.113.8", None), ("\0", None), ("[", None),
])
def test_an_entry_is_read(text: str, found: str | None) -> None:
    assert address_of(text) == (None if found is None else ip_address(found))


@given(addresses, st.integers(0, 65535))
def test_any_address_is_read_with_and_without_its_port(address: Any, port: int) -> None:
    wanted = (address.ipv4_mapped or address) if address.version == 6 else address
    with_port = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
    assert address_of(str(address)) == address_of(with_port) == wanted


@pytest.mark.parametrize(("said", "client"), [
    ([], "10.0.0.1"), (["203.0.113.9"], "203.0.113.9"), (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
    (["203.0.113.9", "10.9.9.9"], "203.0.113.9"), (["198.51.100.1", "203.0.113.9", "10.9.9.9", "192.0.2.1"], "203.0.113.9"),
    (["10.1.1.1"], "10.1.1.1"), (["203.0.113.9", "unknown"], "10.0.0.1"), (["203.0.113.9", "unknown", "10.2.2.2"], "10.2.2.2"),
    (["203.0.113.9", "::ffff:10.2.2.2"], "203.0.113.9"), (["2001:db8:2::7", "2001:db8:1::7"], "2001:db8:2::7"),
])
def test_the_client_is_the_nearest_that_is_no_proxy(said: list[str], client: str) -> None:
    assert client_of(PROXY, said, TRUSTED) == ip_address(client)


@given(st.lists(st.text(max_size=20) | addresses.map(str), max_size=6), addresses)
def test_what_a_client_writes_itself_changes_nothing(invented: list[str], client: Any) -> None:
    client = address_of(str(client))
    assume(not any(client in network for network in TRUSTED))
    assert client_of(PROXY, [*invented, str(client)], TRUSTED) == client
    assert client_of(client, invented, TRUSTED) == client, "who is no proxy is not listened to"


@pytest.mark.parametrize(("peer", "headers", "client", "scheme"), [
    ("10.0.0.1", [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")], "203.0.113.9", "https"),
    ("::ffff:10.0.0.1", [("x-forwarded-for", "203.0.113.9")], "203.0.113.9", "http"),
    ("10.0.0.1", [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9, 10.0.0.2")], "203.0.113.9", "http"),
    ("10.0.0.1", [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], "10.0.0.1", "http"),
    ("10.0.0.1", [("x-forwarded-proto", "HTTPS")], "10.0.0.1", "https"),
    ("10.0.0.1", [("x-forwarded-proto", "ftp")], "10.0.0.1", "http"),
    ("203.0.113.5", [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")], "203.0.113.5", "http"),
])
def test_what_the_application_sees(peer: str, headers: list[tuple[str, str]], client: str, scheme: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    given = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "client": (peer, 4711), "scheme": "http", "headers": given}
    asyncio.run(Proxied(app, [str(network) for network in TRUSTED])(scope, None, None))  # type: ignore[arg-type]
    assert seen == [(client, scheme)]
