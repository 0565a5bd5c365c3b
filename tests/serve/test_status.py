"""GET /v1/status: its shape, and its figures against what was asked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from every_input import row
from sites import Running

from treadle.store.ledger import Ledger, Said

Serve = Callable[..., Running]
HEADS = ("rain", "millimetres", "cloud")
PERCENTILES = {"p50", "p90", "p99", "count"}


def status(running: Running, **headers: str) -> Any:
    response = running.client.get("/v1/status", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


def test_the_shape_is_the_one_that_consoles_read(serve: Serve, until: Callable[..., None]) -> None:
    running = serve()
    empty = status(running)
    assert set(empty) == {
        "at", "uptime", "model", "version", "draining", "stalled", "load", "latency", "requests", "versions", "keys", "cost",
        "feedback", "cache", "drift", "alerts",
    }
    assert empty["latency"] == {"first_token": None, "per_token": None, "total": None, "queue": None}
    assert (empty["keys"], empty["drift"], empty["alerts"]) == ([], [], [])
    assert empty["versions"] == [{
        "version": 1, "package": running.site.packages[0], "role": "live", "share": 1.0, "requests": 0, "tokens": 0, "total": None,
        "feedback": {"up": 0, "down": 0, "edited": 0},
    }]
    assert running.complete("def f", max_tokens=5).status_code == 200
    assert running.client.post("/v1/completions", json={"model": "tiny"}).status_code == 400
    until(lambda: status(running)["requests"] == {"ok": 1, "client_errors": 1, "server_errors": 0, "refused": 0})
    found = status(running)
    assert abs(datetime.fromisoformat(found["at"]) - datetime.now(UTC)).total_seconds() < 5
    assert (found["model"], found["version"], found["draining"]) == ("tiny", 1, False)
    assert found["uptime"] > empty["uptime"]
    assert set(found["load"]) == {"active", "waiting", "slots", "queue", "requests_per_minute", "tokens_per_minute"}
    assert (found["load"]["slots"], found["load"]["queue"], found["load"]["requests_per_minute"]) == (3, 8, 2)
    for times in found["latency"].values():
        assert set(times) == PERCENTILES
        assert times["p50"] <= times["p90"] <= times["p99"]
        assert times["count"] == 1
    assert found["latency"]["queue"]["p50"] <= found["latency"]["first_token"]["p50"] <= found["latency"]["total"]["p50"]
    assert set(found["cost"]) == {"currency", "per_1000_requests", "how"}
    assert set(found["cache"]) == {"hits", "asked"}


def test_load_shows_what_is_under_way(serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1")
    with httpx.Client(base_url=running.url, timeout=60) as client:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 900, "temperature": 0, "stream": True, "n": 2}
        with client.stream("POST", "/v1/completions", json=body):
            until(lambda: [status(running)["load"][name] for name in ("active", "waiting")] == [1, 1])


def test_what_keys_and_versions_did(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    secrets = {name: site.ledger.add_key(name, ["answer", "feedback"]) for name in ("web", "app")}
    reader = site.ledger.add_key("admin", ["metrics"])
    running = serve("serve.price.tokens=3", "plan.price=0.9", "plan.power=100", "plan.energy_price=1", host="0.0.0.0")

    def post(path: str, key: str, **body: Any) -> Any:
        response = running.client.post(path, json=body, headers={"authorization": f"Bearer {secrets[key]}"})
        assert response.status_code == 200, response.text
        return response.json()

    usual = {"model": "tiny", "prompt": "def f", "max_tokens": 4, "store": True}
    answers = [post("/v1/completions", key, **usual) for key in ("web", "app", "web")]
    site.ledger.promote(site.packages[1], "better")
    until(lambda: running.live.version.number == 2)
    answers.append(post("/v1/completions", "web", model="tiny", prompt="def f", max_tokens=7))
    post("/v1/feedback", "web", answer_id=answers[0]["id"], rating="up")
    post("/v1/feedback", "web", answer_id=answers[0]["id"], rating="down", edited="better")  # the last word counts
    post("/v1/feedback", "app", answer_id=answers[1]["id"], rating="up")
    post("/v1/feedback", "app", answer_id=answers[1]["id"], rating=None, edited=None)  # taken back
    post("/v1/feedback", "web", answer_id=answers[3]["id"], rating="up")

    def read() -> Any:
        return status(running, authorization=f"Bearer {reader}")

    until(lambda: read()["requests"]["ok"] == 9, seconds=10)
    until(lambda: read()["feedback"]["feedback"] == 2, seconds=10)  # sums of the ledger are up to 5 s old
    found = read()
    used = [answer["usage"]["total_tokens"] for answer in answers]
    assert {"app", "web"} <= {row["key"] for row in found["keys"]}
    keys = {row["key"]: row for row in found["keys"]}
    assert keys["web"] == {"key": "web", "requests": 6, "tokens": used[0] + used[2] + used[3], "predictions": 0,
                           "money": pytest.approx(3 * (used[0] + used[2] + used[3]) / 1000)}
    assert keys["app"]["tokens"] == used[1]
    new, old = found["versions"]
    assert (new["version"], new["role"], new["share"], new["requests"], new["tokens"]) == (2, "live", 1.0, 1, used[3])
    assert (old["version"], old["role"], old["share"], old["requests"], old["tokens"]) == (1, "retired", 0.0, 3, sum(used[:3]))
    assert (new["package"], old["package"]) == (site.packages[1], site.packages[0])
    assert (new["total"]["count"], old["total"]["count"]) == (1, 3)
    assert new["feedback"] == {"up": 1, "down": 0, "edited": 0}
    assert old["feedback"] == {"up": 0, "down": 1, "edited": 1}
    assert found["feedback"] == {"answers": 4, "feedback": 2, "rate": 0.5}
    assert found["load"]["tokens_per_minute"] == sum(used)
    # 0.9 for the machine and 0.1 kWh at 1 make 1 an hour; nine requests since the start.
    assert found["cost"]["currency"] == "EUR"
    assert found["cost"]["per_1000_requests"] == pytest.approx(1000 / (9 * 3600 / max(1.0, found["uptime"])), rel=0.05)
    assert "1 EUR an hour" in found["cost"]["how"]
    for name, wanted in (("web", 403), ("app", 403)):
        assert running.client.get("/v1/status", headers={"authorization": f"Bearer {secrets[name]}"}).status_code == wanted
    assert running.client.get("/v1/status").status_code == 401


def test_of_records_there_is_no_cache_and_predictions_are_counted(sky: Running) -> None:
    inputs = [{name: value for name, value in row(random.Random(n)).items() if name not in HEADS} for n in range(4)]
    assert sky.client.post("/v1/predict", json={"inputs": inputs}).status_code == 200
    found = status(sky)
    assert found["cache"] is None
    assert found["latency"]["first_token"] is None
    assert found["latency"]["total"]["count"] == found["latency"]["queue"]["count"] == 1
    assert found["keys"][0]["predictions"] == 4


def said(ledger: Ledger) -> None:
    for number in range(6):
        ledger.record_answer(
            id=f"a{number}", version=1 + number % 2, package="package-0", stored=True, prompt="p", text="t", settings={},
            prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
    assert ledger.said() == {1: Said(3), 2: Said(3)}
    ledger.record_feedback("a0", "down", None)
    ledger.record_feedback("a0", "up", "x")
    ledger.record_feedback("a2", "down", None)
    ledger.record_feedback("a1", None, "y")
    ledger.record_feedback("a3", "up", None)
    ledger.record_feedback("a3", None, None)
    assert ledger.said() == {1: Said(3, 2, up=1, down=1, edited=1), 2: Said(3, 1, edited=1)}


def test_what_was_said_of_each_version(tmp_path: Any) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.said() == {}
    said(ledger)
    ledger.close()


def test_what_was_said_of_each_version_on_postgresql(tmp_path: Any, postgres: str) -> None:
    ledger = Ledger(tmp_path, postgres)
    said(ledger)
    ledger.close()


def test_sums_over_the_ledger_are_not_taken_at_every_look(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running, looks = serve(), []
    real = Ledger.said
    monkeypatch.setattr(Ledger, "said", lambda self: looks.append(time.monotonic()) or real(self))
    monkeypatch.setattr("treadle.serve.status._FRESH", 3600)
    for _ in range(5):
        status(running)
    assert len(looks) == 1
    monkeypatch.setattr("treadle.serve.status._FRESH", 0)
    status(running)
    assert len(looks) == 2
