"""What a key may ask: per minute, at once, per day; what is beyond is 429 and says until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import UserError, WorkError
from treadle.serve.limits import Accounts, Limited, Minute, check_prices
from treadle.serve.server import run_server
from treadle.spec import access
from treadle.store.keys import Use

Serve = Callable[..., Any]
BODY = {"model": "tiny", "prompt": "x", "max_tokens": 4, "temperature": 0}


def ask(running: Any, secret: str | None, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return running.client.post("/v1/completions", json=BODY | fields, headers=headers, timeout=60)  # type: ignore[no-any-return]


def today(running: Any) -> Use:
    """What the ledger says that alice had."""
    found: Use = running.site.ledger.use_on(datetime.now(UTC).date()).get("alice", Use())
    return found


def refused(response: httpx.Response, said: str) -> int:
    """That it is refused for this reason; how many seconds it says to wait."""
    assert response.status_code == 429, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "limit_reached")
    assert said in error["message"]
    seconds = int(response.headers["retry-after"])
    assert f"ask again in {seconds} s" in error["message"]
    return seconds


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=60), st.integers(1, 12))
def test_no_minute_holds_more_than_the_limit_and_no_wait_is_too_long(asked: list[tuple[float, int]], limit: int) -> None:
    now = 0.0
    minute, taken = Minute(lambda: now), []
    for pause, amount in asked:
        now += pause
        wait = minute.wait(limit)
        within = sum(n for at, n in taken if at > now - 60)
        if wait == 0:
            assert within < limit
            minute.add(amount)
            taken.append((now, amount))
        else:
            assert sum(n for at, n in taken if at > now - 61) >= limit
            assert sum(n for at, n in taken if at > now + wait - 60) < limit
            assert 1 <= wait <= 61


def test_a_flood_makes_nothing_grow() -> None:
    now = 0.0
    minute = Minute(lambda: now)
    for _ in range(100_000):
        now += 0.01
        minute.add(1)
    assert len(minute._seconds) <= 62
    assert minute.wait(10**6) == 0


def test_requests_per_minute_are_each_keys_own(serve: Serve, site: Any) -> None:
    running = serve("serve.limits.requests_per_minute=2", host="0.0.0.0")
    alice, bob = site.ledger.add_key("alice"), site.ledger.add_key("bob", limits={"requests_per_minute": None})
    assert [ask(running, alice).status_code for _ in range(2)] == [200, 200]
    seconds = refused(ask(running, alice), "the limit of 2 requests per minute of the key 'alice' is reached")
    assert 50 <= seconds <= 61
    assert f"at {datetime.now(UTC) + timedelta(seconds=seconds):%H:%M}" in ask(running, alice).json()["error"]["message"]
    assert running.client.get("/v1/models", headers={"authorization": f"Bearer {alice}"}).status_code == 200
    assert [ask(running, bob).status_code for _ in range(3)] == [200] * 3


def test_this_machine_without_a_key_has_no_limit(serve: Serve) -> None:
    running = serve("serve.limits.requests_per_minute=1", "serve.limits.requests_per_day=1")
    assert [ask(running, None).status_code for _ in range(3)] == [200] * 3


def test_tokens_per_minute_count_prompt_and_answer(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    secret = site.ledger.add_key("alice", limits={"tokens_per_minute": 12})
    running = serve()
    used = ask(running, secret).json()["usage"]["total_tokens"]
    assert used < 12
    while (answer := ask(running, secret)).status_code == 200:
        used += answer.json()["usage"]["total_tokens"]
    assert 12 <= used < 24
    refused(answer, "12 tokens per minute")
    until(lambda: today(running).tokens == used)


def test_requests_at_once(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    secret = site.ledger.add_key("alice", limits={"concurrent": 1})
    running = serve()
    headers = {"authorization": f"Bearer {secret}"}
    with running.client.stream("POST", "/v1/completions", json=BODY | {"max_tokens": 1000, "stream": True}, headers=headers):
        until(lambda: running.live.worker.active)
        assert refused(httpx.post(f"{running.url}/v1/completions", json=BODY, headers=headers), "1 request at once") == 1
    until(lambda: ask(running, secret).status_code == 200)  # the client went away, and its place is free


def test_requests_per_day_outlive_the_server_and_refusals_are_free(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    secret = site.ledger.add_key("alice", limits={"requests_per_day": 2})
    running = serve()
    assert ask(running, secret, max_tokens=0).status_code == 400
    assert ask(running, secret).status_code == 200
    until(lambda: today(running).requests == 1)
    again = serve()
    assert ask(again, secret, model="other").status_code == 404
    assert ask(again, secret).status_code == 200
    seconds = refused(ask(again, secret), "2 requests per day")
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    assert abs(seconds - (midnight - now).total_seconds()) < 30
    until(lambda: today(running).requests == 2)
    refused(ask(serve(), secret), "at midnight UTC")


def test_what_other_servers_of_the_ledger_answered_counts(site: Any) -> None:
    key = site.ledger.find_key(site.ledger.add_key("alice", limits={"requests_per_day": 3}))
    one, other = (Accounts(site.ledger, access.Limits(), access.Price(), "EUR") for _ in range(2))

    async def answer(accounts: Accounts) -> None:
        async with accounts.asking(key) as taken:
            taken.answered = True

    for accounts in (one, other, one):
        asyncio.run(answer(accounts))
    with pytest.raises(Limited, match="3 requests per day"):
        asyncio.run(answer(one))


def test_use_goes_into_the_ledger_in_few_transactions_and_all_of_it(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [site.ledger.find_key(site.ledger.add_key(name)) for name in ("alice", "bob")]
    real, written = site.ledger.record_uses, list[Any]()
    monkeypatch.setattr(site.ledger, "record_uses", lambda added: written.append(added) or real(added))

    async def answer(accounts: Accounts, key: Any) -> None:
        async with accounts.asking(key) as taken:
            taken.answered, taken.predictions = True, 2

    async def many() -> None:
        accounts = Accounts(site.ledger, access.Limits(), access.Price(), "EUR")
        await asyncio.gather(*(answer(accounts, keys[number % 2]) for number in range(40)))
        assert written == [], "no answer waits for it"
        while not written:
            await asyncio.sleep(0.01)
        await answer(accounts, keys[0])  # and then the loop ends

    asyncio.run(many())
    assert len(written) == 2
    assert site.ledger.use_on(datetime.now(UTC).date()) == {"alice": Use(21, 0, 42), "bob": Use(20, 0, 40)}


def test_tokens_and_money_per_day(serve: Serve, site: Any) -> None:
    by_tokens = site.ledger.add_key("alice", limits={"tokens_per_day": 1})
    running = serve("serve.price.tokens=1000", "serve.limits.money_per_day=1.5", "plan.currency=CHF")
    assert ask(running, by_tokens).status_code == 200
    refused(ask(running, by_tokens), "1 token per day")
    by_money = site.ledger.add_key("bob")
    assert ask(running, by_money).status_code == 200  # several tokens, at 1 CHF each
    refused(ask(running, by_money), "1.50 CHF per day")


def test_a_limit_of_money_without_a_price_starts_no_server(site: Any) -> None:
    check_prices(site.ledger, access.Price())
    site.ledger.add_key("alice", limits={"money_per_day": 2.0})
    with pytest.raises(UserError, match="'alice' has a limit of money per day") as caught:
        run_server(site.project, site.store, site.ledger, "127.0.0.1", 0)
    assert "serve.price" in caught.value.cure
    check_prices(site.ledger, access.Price(predictions=1.0))
    site.ledger.revoke_key("alice")
    check_prices(site.ledger, access.Price())


def test_records_count_where_there_are_no_tokens(alike: Any, until: Callable[..., None]) -> None:
    secret = alike.site.ledger.add_key("alice", limits={"tokens_per_minute": 3})
    headers = {"authorization": f"Bearer {secret}"}
    columns = [item["column"] for item in alike.client.get("/v1/models").json()["data"][0]["inputs"]]
    body = {"inputs": [dict.fromkeys(columns, "a wet day")] * 2}
    answered = [alike.client.post("/v1/predict", json=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answered[:2]] == [200, 200], answered[0].text
    refused(answered[2], "3 tokens per minute")
    until(lambda: today(alike) == Use(requests=2, tokens=0, predictions=4))


def test_a_ledger_that_cannot_be_written_withholds_no_answer(serve: Serve, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = site.ledger.add_key("alice", limits={"requests_per_day": 2})
    running = serve()

    def full(*_: Any) -> None:
        raise WorkError("the ledger cannot be written: disk full")

    monkeypatch.setattr(site.ledger, "record_uses", full)
    assert [ask(running, secret).status_code for _ in range(2)] == [200, 200]
    refused(ask(running, secret), "2 requests per day")
