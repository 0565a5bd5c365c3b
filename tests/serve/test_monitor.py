"""What is counted, by whom and by which version: against arithmetic, and bounded."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from every_input import row
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from sites import Running

from treadle.serve.asked import Asked, Written, reset_asked, set_asked
from treadle.serve.engine import Engine
from treadle.serve.monitor import KEYS, VERSIONS, Monitor
from treadle.serve.recent import WINDOW, Tally, Times, percentiles
from treadle.serve.version import Version
from treadle.spec.access import Price

Serve = Callable[..., Running]
HEADS = ("rain", "millimetres", "cloud")
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text) for sample in family.samples
    }


def figure(found: Figures, name: str, **labels: str) -> float:
    """The sum over all that have these labels."""
    own = [(dict(given_), value) for (whose, given_), value in found.items() if whose == f"treadle_{name}"]
    return sum(value for given_, value in own if labels.items() <= given_.items())


def test_figures_are_by_key_and_version(serve: Serve, site: Any, until: Callable[..., None]) -> None:
    web, admin = site.ledger.add_key("web", ["answer", "feedback"]), site.ledger.add_key("admin", ["metrics"])
    running = serve("serve.price.tokens=2", host="0.0.0.0")
    headers = {"authorization": f"Bearer {web}"}

    def ask(**fields: Any) -> Any:
        body = {"model": "tiny", "prompt": "def f", "temperature": 0, "max_tokens": 6, **fields}
        return running.client.post("/v1/completions", json=body, headers=headers)

    first = ask().json()
    second = ask(prompt="def f" * 20, n=2, max_tokens=3, temperature=1, seed=5).json()
    again = ask(prompt="def f" * 20, max_tokens=2).json()
    assert ask(max_tokens=-1).status_code == 400
    site.ledger.promote(site.packages[1], "better")
    until(lambda: running.live.version.number == 2)
    third = ask(max_tokens=9).json()
    assert running.client.get("/v1/models").status_code == 401

    found = {}

    def read() -> bool:
        text = running.client.get("/metrics", headers={"authorization": f"Bearer {admin}"}).text
        assert web not in text
        assert admin not in text
        found.update(figures(text))
        return figure(found, "requests_total", key="web") == 5

    until(read)  # the last request is counted when its response is out
    used = [answer["usage"] for answer in (first, second, again, third)]
    earlier, last = used[:3], used[3]
    for direction, name in (("prompt", "prompt_tokens"), ("answer", "completion_tokens")):
        wanted = sum(usage[name] for usage in earlier)
        assert figure(found, "tokens_total", direction=direction, key="web", version="1") == wanted
        assert figure(found, "tokens_total", direction=direction, key="web", version="2") == last[name]
    known = [usage["prompt_tokens_details"]["cached_tokens"] for usage in earlier]
    assert figure(found, "tokens_total", direction="known", version="1") == sum(known) >= 16  # the last prompt was read before
    tokens = {version: figure(found, "tokens_total", version=version, direction="prompt")
              + figure(found, "tokens_total", version=version, direction="answer") for version in ("1", "2")}
    for version in ("1", "2"):
        assert figure(found, "money_total", key="web", version=version) == pytest.approx(2 * tokens[version] / 1000)
    assert figure(found, "answers_total", key="web", version="1", finish_reason="length") == 4
    assert figure(found, "requests_total", key="web", version="none", status="400") == 1
    assert figure(found, "errors_total", key="web", kind="client") == 1
    assert figure(found, "errors_total", key="none", kind="client") == 1  # who asked without a key
    assert figure(found, "errors_total", kind="server") == 0
    for name in ("queue", "first_token", "token", "answer"):
        assert figure(found, f"{name}_seconds_count", key="web", version="1") == 4
        assert figure(found, f"{name}_seconds_count", key="web", version="2") == 1
    sums = {name: figure(found, f"{name}_seconds_sum") for name in ("queue", "first_token", "answer")}
    assert sums["queue"] <= sums["first_token"] <= sums["answer"]


def test_what_waits_is_seen_in_the_queues_figure(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine._read

    def slow(*given: Any) -> Any:
        time.sleep(0.005)
        return real(*given)

    monkeypatch.setattr(Engine, "_read", slow)
    running = serve("serve.slots=1")
    assert running.complete("x", n=3, max_tokens=60, temperature=0).status_code == 200
    found = figures(running.client.get("/metrics").text)
    queued, written = figure(found, "queue_seconds_sum"), figure(found, "answer_seconds_sum")
    # One after the other: of three answers of like length t the queue is 0 + t + 2 t, the whole t + 2 t + 3 t.
    assert queued > 0.25 * written


def test_records_are_counted_by_key(sky: Running) -> None:
    inputs = [{name: value for name, value in row(random.Random(n)).items() if name not in HEADS} for n in range(3)]
    assert sky.client.post("/v1/predict", json={"inputs": inputs}).status_code == 200
    found = figures(sky.client.get("/metrics").text)
    assert figure(found, "predictions_total", key="none", version="1") == 3
    assert figure(found, "answers_total", key="none", version="1", finish_reason="stop") == 3
    assert figure(found, "queue_seconds_count", version="1") == figure(found, "answer_seconds_count", version="1") == 1
    assert 0 < figure(found, "queue_seconds_sum") <= figure(found, "answer_seconds_sum")
    assert figure(found, "money_total") == 0  # without a price


def one(version: int, started: float = 0.0, tokens: int = 5) -> Written:
    return Written("cmpl-1", Version(version, f"package-{version}", 0), [0, 1, 2], 1, tokens, "stop", started, started + 1,
                   started + 1.5, started + 3.5)


def test_times_are_by_arithmetic() -> None:
    monitor = Monitor()
    monitor.price = Price(tokens=10)
    monitor.wrote(one(1))
    monitor.wrote(one(1, tokens=1))  # one token has none behind it
    found = figures(monitor.text().decode())
    assert figure(found, "queue_seconds_sum", version="1") == 2
    assert figure(found, "first_token_seconds_sum", version="1") == 3
    assert figure(found, "answer_seconds_sum", version="1") == 7
    assert figure(found, "token_seconds_count") == 1
    assert figure(found, "token_seconds_sum") == pytest.approx(2 / 4)
    assert figure(found, "money_total") == pytest.approx((3 + 5 + 3 + 1) / 100)
    assert monitor.cache == {"hits": 2, "asked": 6}


def test_neither_keys_nor_versions_make_the_figures_grow() -> None:
    monitor, sizes = Monitor(), []
    for number in range(1000):
        asked = Asked("req-1", "POST", "/v1/completions", f"key-{number % 400}", 200)
        token = set_asked(asked)
        asked.written.append(one(number // 10))
        monitor.wrote(asked.written[0])
        monitor.ended(asked)
        reset_asked(token)
        sizes.append(len(figures(monitor.text().decode())) if number % 100 == 99 else 0)
    assert len(monitor.keys) == KEYS
    assert len(monitor.versions) == VERSIONS
    found = figures(monitor.text().decode())
    seen = {dict(labels)["version"] for _, labels in found if "version" in dict(labels)}
    assert "99" in seen
    assert seen <= {str(number) for number in range(100 - VERSIONS, 100)}
    assert len({dict(labels)["key"] for _, labels in found if "key" in dict(labels)}) <= KEYS
    assert figure(found, "requests_total", version="99") == 10
    assert sizes[999] <= sizes[199]  # no more than once all places were taken


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_values_by_rank(values: list[float]) -> None:
    found = percentiles(values)
    assert found is not None
    assert found["count"] == len(values)
    rounded = {round(value, 6) for value in values}
    for share in (50, 90, 99):
        value = found[f"p{share}"]
        assert value in rounded
        assert sum(one <= value + 1e-6 for one in values) >= share * len(values) / 100
        assert sum(one < value - 1e-6 for one in values) < share * len(values) / 100
    assert percentiles([]) is None


def test_what_is_old_is_forgotten() -> None:
    now = 1000.0
    times, tally = Times(lambda: now), Tally(lambda: now)
    times.add(5.0)
    tally.add("ok", 3)
    now += WINDOW / 2
    times.add(7.0)
    tally.add("ok")
    tally.add("refused", 2)
    assert times.percentiles() == {"p50": 5.0, "p90": 7.0, "p99": 7.0, "count": 2}
    assert (tally.of("ok"), tally.of("ok", "refused"), tally.of("ok", seconds=60)) == (4, 6, 1)
    now += WINDOW / 2 + 1
    assert times.percentiles() == {"p50": 7.0, "p90": 7.0, "p99": 7.0, "count": 1}
    assert tally.of("ok", "refused") == 3
    now += WINDOW
    assert times.percentiles() is None
    assert tally.of("ok", "refused") == 0


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(1, 9)), max_size=80))
def test_a_tally_is_a_sum_to_the_second(added: list[tuple[float, int]]) -> None:
    now, kept = 0.0, []
    tally = Tally(lambda: now)
    for pause, amount in added:
        now += pause
        tally.add("x", amount)
        kept.append((math.floor(now), amount))
        assert tally.of("x") == sum(n for second, n in kept if second > now - WINDOW)
    assert len(tally._seconds) <= WINDOW + 1


def test_a_flood_is_kept_in_little_memory() -> None:
    times = Times()
    for number in range(20_000):
        times.add(float(number))
    found = times.percentiles()
    assert found is not None
    assert found["count"] == 5000
    assert found["p50"] == 17_499


def test_who_looks_at_figures_is_no_load(serve: Serve) -> None:
    running = serve()
    for _ in range(3):
        assert running.client.get("/metrics").status_code == running.client.get("/v1/status").status_code == 200
    status = running.client.get("/v1/status").json()
    assert status["requests"] == {"ok": 0, "client_errors": 0, "server_errors": 0, "refused": 0}
    assert status["load"]["requests_per_minute"] == 0
    assert status["cost"]["per_1000_requests"] is None
    assert json.dumps(status)
