"""Wrong keys at speed lock their address out for a while, and no more than it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sites import Clock

from treadle.serve.lockout import LockedOut, Lockout
from treadle.serve.monitor import Monitor
from treadle.spec import access

Serve = Callable[..., Any]
LIMIT = access.Lockout(wrong_keys=3, duration=100.0)


@pytest.fixture
def lockout(site: Any, clock: Clock) -> Lockout:
    return Lockout(LIMIT, site.ledger, Monitor(), clock)


def guess(lockout: Lockout, address: str, times: int) -> None:
    async def wrong() -> None:
        for _ in range(times):
            await lockout.wrong(address)

    asyncio.run(wrong())


def is_out(lockout: Lockout, address: str) -> bool:
    try:
        lockout.check(address)
    except LockedOut:
        return True
    return False


def test_a_guesser_is_locked_out_and_let_in_again(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    right = {"authorization": f"Bearer {site.ledger.add_key('a')}"}
    running = serve("serve.lockout.wrong_keys=5", "serve.lockout.duration=2 s", host="0.0.0.0")
    for number in range(5):
        wrong = {"authorization": f"Bearer tk-{number}"}
        assert running.client.get("/v1/models", headers=wrong).status_code == 401
    for headers in (wrong, right, {}):
        response = running.client.get("/v1/models", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "locked_out")
        assert 1 <= int(response.headers["retry-after"]) <= 2
        assert "too many wrong keys" in response.json()["error"]["message"]
    assert running.client.get("/healthz").status_code == 200
    assert running.client.get("/").status_code == 200
    until(lambda: running.client.get("/v1/models", headers=right).status_code == 200)
    (entry,) = [row for row in site.ledger.audit() if row["action"] == "lock out"]
    assert entry["detail"] == {"address": "127.0.0.1", "seconds": 2.0, "others": 0}
    assert "treadle_lockouts_total 1.0" in running.client.get("/metrics", headers=right).text


def test_behind_a_proxy_each_client_is_its_own(serve: Serve, site: Any) -> None:
    right = {"authorization": f"Bearer {site.ledger.add_key('a')}"}
    running = serve("serve.lockout.wrong_keys=3", "serve.proxies=[127.0.0.0/8, 10.1.0.0/16]", host="0.0.0.0")

    def ask(client: str, headers: dict[str, str]) -> int:
        return int(running.client.get("/v1/models", headers={**headers, "x-forwarded-for": client}).status_code)

    for number in range(3):
        # What stands left of the client's address came from the client, who may write there what it likes.
        assert ask(f"198.51.100.{number}, 203.0.113.9, 10.1.2.3", {"authorization": f"Bearer tk-{number}"}) == 401
    assert ask("203.0.113.9", right) == 429
    assert ask("198.51.100.1", right) == 200
    assert ask("2001:db8::1, 10.1.0.1", right) == 200
    (entry,) = [row for row in site.ledger.audit() if row["action"] == "lock out"]
    assert entry["detail"]["address"] == "203.0.113.9"


def test_who_is_no_proxy_is_not_believed(serve: Serve, site: Any) -> None:
    right = {"authorization": f"Bearer {site.ledger.add_key('a')}"}
    for proxies in ("[]", "[10.0.0.0/8]"):
        running = serve("serve.lockout.wrong_keys=3", f"serve.proxies={proxies}", host="0.0.0.0")
        for number in range(3):
            said = {"authorization": "Bearer tk-x", "x-forwarded-for": f"203.0.113.{number}", "x-forwarded-proto": "https"}
            response = running.client.get("/v1/models", headers=said)
            assert response.status_code == 401
            assert "strict-transport-security" not in response.headers
        assert running.client.get("/v1/models", headers={**right, "x-forwarded-for": "203.0.113.77"}).status_code == 429


def test_a_proxy_says_whether_it_was_by_tls(serve: Serve, site: Any) -> None:
    running = serve("serve.proxies=[127.0.0.1]", host="0.0.0.0")
    for said, far in (("https", True), ("http", False), ("gopher", False)):
        headers = running.client.get("/healthz", headers={"x-forwarded-proto": said, "host": "models.example.com"}).headers
        assert ("strict-transport-security" in headers) is far


def test_on_loopback_and_where_it_is_off_no_one_is_locked_out(serve: Serve, site: Any) -> None:
    right = {"authorization": f"Bearer {site.ledger.add_key('a')}"}
    wrong = {"authorization": "Bearer tk-wrong"}
    for running in (serve("serve.lockout.wrong_keys=1"), serve("serve.lockout.wrong_keys=null", host="0.0.0.0")):
        assert [running.client.get("/v1/models", headers=wrong).status_code for _ in range(30)] == [401] * 30
        assert running.client.get("/v1/models", headers=right).status_code == 200


def test_no_key_a_right_one_an_expired_one_and_a_password_are_no_guesses(serve: Serve, site: Any) -> None:
    right = {"authorization": f"Bearer {site.ledger.add_key('a', ['metrics'])}"}
    running = serve("serve.lockout.wrong_keys=1", host="0.0.0.0")
    assert [running.client.get("/v1/models").status_code for _ in range(3)] == [401] * 3
    other = {"authorization": "Basic dXNlcjpwYXNz"}
    assert [running.client.get("/v1/models", headers=other).status_code for _ in range(3)] == [401] * 3
    over = {"authorization": f"Bearer {site.ledger.add_key('b', expires=datetime.now(UTC) - timedelta(days=1))}"}
    assert [running.client.get("/v1/models", headers=over).status_code for _ in range(3)] == [401] * 3
    assert running.client.get("/v1/models", headers=right).status_code == 403
    assert running.client.get("/metrics", headers=right).status_code == 200


def test_only_what_came_within_a_minute_counts(lockout: Lockout, clock: Clock) -> None:
    for _ in range(10):
        guess(lockout, "192.0.2.1", 1)
        clock.now += 31
    assert not is_out(lockout, "192.0.2.1")
    guess(lockout, "192.0.2.1", 3)
    assert is_out(lockout, "192.0.2.1")
    clock.now += 99
    assert is_out(lockout, "192.0.2.1")
    clock.now += 2
    assert not is_out(lockout, "192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("192.0.2.1", "192.0.2.2", False), ("2001:db8::1", "2001:db8::ffff:2", True), ("2001:db8::1", "2001:db8:0:1::1", False),
     ("::ffff:192.0.2.1", "192.0.2.1", True), ("fe80::1%eth0", "fe80::2%eth0", True), ("", "192.0.2.1", False)],
)
def test_whose_an_address_is(lockout: Lockout, one: str, other: str, same: bool) -> None:
    guess(lockout, one, 3)
    assert is_out(lockout, one)
    assert is_out(lockout, other) is same


def test_a_flood_of_addresses_fills_neither_memory_nor_the_ledger(lockout: Lockout, site: Any) -> None:
    before = len(site.ledger.audit())
    for number in range(5000):
        guess(lockout, f"10.0.{number // 256}.{number % 256}", 3)
    assert len(lockout._addresses) == 4096
    assert len(site.ledger.audit()) - before == 10
    assert is_out(lockout, "10.0.19.135")


def test_what_was_not_noted_is_counted_in_the_next_entry(lockout: Lockout, clock: Clock, site: Any) -> None:
    for number in range(14):
        guess(lockout, f"10.0.0.{number}", 3)
    clock.now += 61
    guess(lockout, "10.0.1.1", 3)
    assert site.ledger.audit()[-1]["detail"] == {"address": "10.0.1.1", "seconds": 100.0, "others": 4}
