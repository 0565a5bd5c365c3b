"""A flood of feedback: so much per minute of a key, of an address without one, and on one answer; the rest is 429 and counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sites import Clock

from treadle.serve.flood import Flooded, FloodGate
from treadle.serve.monitor import Monitor
from treadle.spec.access import Limits
from treadle.store.keys import SCOPES, Key

Serve = Callable[..., Any]


def key(name: str, **limits: float | None) -> Key:
    return Key(name, frozenset(SCOPES), None, limits)


def taken(gate: FloodGate, key: Key | None, address: str, answers: list[str]) -> int:
    """How many pieces of feedback are let in."""
    count = 0
    for answer in answers:
        with contextlib.suppress(Flooded):
            gate.let(key, address, answer)
            count += 1
    return count


def many(count: int, start: int = 0) -> list[str]:
    return [f"cmpl-{number}" for number in range(start, start + count)]


def test_without_configuration_a_flood_is_capped_for_each_sender(clock: Clock) -> None:
    gate = FloodGate(Limits(), Monitor(), clock)
    assert taken(gate, key("mallory"), "192.0.2.1", many(500)) == 120
    assert taken(gate, key("app"), "192.0.2.1", many(100)) == 100
    assert taken(gate, None, "192.0.2.1", many(500)) == 120
    assert taken(gate, None, "2001:db8::1", many(100)) == 100
    assert taken(gate, None, "2001:db8::2", many(100, 100)) == 20  # of the same network
    clock.now += 61
    assert taken(gate, key("mallory"), "192.0.2.1", many(500)) == 120


def test_one_answer_takes_ten_whoever_sends_them(clock: Clock) -> None:
    gate = FloodGate(Limits(feedback_per_minute=None), Monitor(), clock)
    assert sum(taken(gate, key(f"key {number}"), "", ["cmpl-1"] * 3) for number in range(9)) == 10
    assert taken(gate, key("key 0"), "", ["cmpl-2"]) == 1
    clock.now += 61
    assert taken(gate, key("key 0"), "", ["cmpl-1"] * 30) == 10


def test_a_keys_own_limit_wins(clock: Clock) -> None:
    gate = FloodGate(Limits(feedback_per_minute=5), Monitor(), clock)
    assert taken(gate, key("a"), "", many(50)) == 5
    assert taken(gate, key("b", feedback_per_minute=None), "", many(500, 100)) == 500
    assert taken(gate, key("c", feedback_per_minute=2), "", many(50, 1000)) == 2


def test_made_up_answers_and_addresses_fill_no_memory(clock: Clock) -> None:
    gate = FloodGate(Limits(feedback_per_minute=None), Monitor(), clock)
    for number in range(6000):
        gate.let(None, f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", f"cmpl-{number}")
    assert len(gate._senders) == len(gate._answers) == 4096


def test_the_server_refuses_a_flood_and_tells_of_it(serve: Serve, site: Any, caplog: pytest.LogCaptureFixture) -> None:
    running = serve("serve.limits.feedback_per_minute=3", host="0.0.0.0")
    secrets = {name: site.ledger.add_key(name) for name in ("app", "mallory")}
    ids = [running.client.post(
        "/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1, "store": True},
        headers={"authorization": f"Bearer {secrets['app']}"},
    ).json()["id"] for _ in range(4)]

    def say(name: str, id: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {secrets[name]}"}
        response: httpx.Response = running.client.post("/v1/feedback", json={"answer_id": id, "edited": "bad"}, headers=headers)
        return response

    assert [say("mallory", id).status_code for id in ids] == [200, 200, 200, 429]
    refused = say("mallory", ids[3])
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "limit_reached")
    assert "3 pieces of feedback per minute of the key 'mallory'" in error["message"]
    assert "serve.limits.feedback_per_minute" in error["message"]
    assert 50 <= int(refused.headers["retry-after"]) <= 61
    assert say("app", ids[3]).status_code == 200
    rows = site.ledger.all_feedback()
    assert [row["key"] for row in rows] == ["mallory"] * 3 + ["app"]
    figures = running.client.get("/metrics", headers={"authorization": f"Bearer {secrets['app']}"}).text
    for line in (
        'treadle_feedback_by_key_total{key="mallory"} 3.0', 'treadle_feedback_by_key_total{key="app"} 1.0',
        'treadle_feedback_refused_total{limit="sender"} 2.0',
    ):
        assert line in figures
    said = [record.getMessage() for record in caplog.records if "comes faster" in record.getMessage()]
    assert said == ["feedback of the key 'mallory' comes faster than it is taken; what is beyond is refused"]


def test_what_a_round_set_aside_stands_in_the_figures(serve: Serve, site: Any) -> None:
    running = serve()
    assert "treadle_feedback_set_aside{" not in running.client.get("/metrics").text
    account = {"in": 9, "kept": 4, "set_aside": {"over its key's share": 5}}
    for number, counts in enumerate(({"account": {"in": 1, "kept": 0, "set_aside": {"x": 1}}, "keys": []},
                                     {"account": account, "keys": []}, {"account": {"set_aside": {"empty": 7}}})):
        site.ledger.record_artifact({"id": f"corpus-{number}", "kind": "corpus", "counts": counts, "parents": []})
    figures = running.client.get("/metrics").text
    assert """treadle_feedback_set_aside{reason="over its key's share"} 5.0""" in figures
    assert 'reason="x"' not in figures
    assert 'reason="empty"' not in figures


def test_feedback_without_a_key_says_so(serve: Serve, site: Any) -> None:
    running = serve()
    id = running.complete("x", max_tokens=1).json()["id"]
    assert running.client.post("/v1/feedback", json={"answer_id": id, "rating": "up"}).status_code == 200
    assert [row["key"] for row in site.ledger.all_feedback()] == [None]
    assert 'treadle_feedback_by_key_total{key=""} 1.0' in running.client.get("/metrics").text
