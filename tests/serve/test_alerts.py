"""Alerts: told when they begin and when they are over, once each, to a real receiver, and in no one's way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver import Receiver, receiving
from sites import Running

from treadle.core.errors import UserError
from treadle.data.drift import Verdict
from treadle.serve.alerts import KEPT, Alerts, Event, conditions
from treadle.serve.asked import Asked
from treadle.serve.monitor import Monitor
from treadle.serve.webhook import Webhook
from treadle.spec import watch

Serve = Callable[..., Running]
Until = Callable[..., None]


class Calm:
    """A live model with nothing the matter."""

    failed = None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(posted.body) for posted in list(receiver.posted)]


# -- beginning and end -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.1, 30), st.booleans()), max_size=60))
def test_each_alert_begins_and_ends_in_turn_and_never_flickers(looks: list[tuple[float, bool]]) -> None:
    now, told, last = 0.0, list[tuple[float, Event]](), None
    alerts = Alerts(20.0, lambda event: told.append((now, event)), lambda: now)
    for pause, holds in looks:
        now += pause
        alerts.look({"errors": "many"} if holds else {})
        last = now if holds else last
        assert alerts.active == (last is not None and bool(told) and not told[-1][1].over)
        assert alerts.active == (last is not None and now - last < 20)  # not over until it was gone for so long
    assert [event.over for _, event in told] == [number % 2 == 1 for number in range(len(told))]


def test_several_alerts_are_apart_and_the_newest_are_kept() -> None:
    now = 0.0
    alerts = Alerts(5.0, lambda event: None, lambda: now)
    alerts.look({"a": "one"})
    now = 3.0
    alerts.look({"a": "one, still", "b": "two"})
    now = 6.0
    alerts.look({"b": "two"})
    assert alerts.active == 2
    now = 9.0
    alerts.look({"b": "two"})
    assert [(event.name, event.message, event.over) for event in alerts.events] == [
        ("a", "one", False), ("b", "two", False), ("a", "one, still", True),
    ]
    assert alerts.active == 1
    for number in range(3 * KEPT):
        now += 10
        alerts.look({f"x{number}": ""})
    assert len(alerts.events) == KEPT


# -- what is the matter ------------------------------------------------------------------------------------------------


def found(
    settings: watch.Alerts, statuses: list[int], totals: tuple[float, ...] = (), lost: int = 0, *verdicts: Any
) -> dict[str, str]:
    monitor = Monitor()
    for status in statuses:
        monitor.ended(Asked("req-1", "POST", "/v1/completions", status=status))
    for total in totals:
        monitor.recent["total"].add(total)
    return conditions(settings, monitor, Calm(), list(verdicts), lost)  # type: ignore[arg-type]


def test_conditions_are_those_of_the_settings() -> None:
    usual = watch.Alerts()
    assert found(usual, [200] * 100) == {}
    assert found(usual, []) == {}
    assert found(usual, [200] * 10 + [500]) == {}  # one alone proves nothing
    assert set(found(usual, [200] * 10 + [500, 503])) == {"errors"}
    assert found(usual, [200] * 50 + [500, 500]) == {}  # 4%
    assert found(usual, [400] * 100) == {}  # the clients' fault
    assert found(watch.Alerts(errors=None), [500] * 10) == {}
    assert set(found(watch.Alerts(errors=0.01), [200] * 100 + [500, 500])) == {"errors"}
    assert found(usual, [200] * 10 + [429] * 9) == {}
    assert set(found(usual, [200] * 10 + [429] * 10)) == {"refused"}
    assert found(watch.Alerts(refused=None), [429] * 50) == {}
    assert found(usual, [], (9.0,) * 50) == {}  # no bound is set
    slow = watch.Alerts(latency=2.0)
    assert found(slow, [], (0.1,) * 90 + (9.0,) * 10) == {}
    assert set(found(slow, [], (0.1,) * 89 + (9.0,) * 11)) == {"latency"}
    assert found(slow, [], (9.0,) * 9) == {}
    assert "answers of the last 5 minutes that could not be written to the ledger: 3" in found(usual, [], (), 3)["ledger"]


def test_drift_is_told_from_the_level_that_is_asked_for() -> None:
    seen = [((what, name), Verdict("psi", 0.3, 500, level)) for what, name, level in (
        ("input", "sky", "much"), ("input", "age", "some"), ("output", "rain", "none"),
    )]
    for level, wanted in (("much", {"sky"}), ("some", {"sky", "age"}), ("none", set())):
        names = set(found(watch.Alerts(drift=level), [], (), 0, *seen))  # type: ignore[arg-type]
        assert names == {f"drift of input {name}" for name in wanted}


# -- a server, and who is told -----------------------------------------------------------------------------------------


def test_a_server_that_fails_tells_so_and_that_it_is_over(
    serve: Serve, receiver: Receiver, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(f"serve.alerts.webhook={receiver.url}/hook", "serve.alerts.settle=100 ms")
    real = running.site.ledger.record_answers
    monkeypatch.setattr(running.site.ledger, "record_answers", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert running.complete("x", max_tokens=1).status_code == 200  # an answer is given all the same
    until(lambda: bodies(receiver))
    monkeypatch.setattr(running.site.ledger, "record_answers", real)
    (body,) = bodies(receiver)
    assert set(body) == {"at", "name", "message", "over", "model", "version", "text"}
    assert (body["name"], body["over"], body["model"], body["version"]) == ("ledger", False, "tiny", 1)
    assert body["text"] == f"tiny: {body['message']}"
    posted = receiver.posted[0]
    assert (posted.path, posted.headers["content-type"]) == ("/hook", "application/json")
    events = running.client.get("/v1/status").json()["alerts"]
    assert [(event["name"], event["over"]) for event in events] == [("ledger", False)]
    assert "treadle_alerts 1.0" in running.client.get("/metrics").text
    time.sleep(2.2)  # two more looks while it holds
    assert len(receiver.posted) == 1


def test_a_version_that_does_not_load_begins_and_ends_an_alert(serve: Serve, site: Any, receiver: Receiver, until: Until) -> None:
    running = serve(f"serve.alerts.webhook={receiver.url}", "serve.alerts.settle=100 ms")
    site.ledger.promote(site.packages[2], "damaged")
    until(lambda: bodies(receiver))
    site.ledger.rollback("does not load")
    until(lambda: len(receiver.posted) == 2)
    assert [(body["name"], body["over"]) for body in bodies(receiver)] == [("version", False), ("version", True)]
    assert "version 2 cannot be loaded, version 1 goes on" in bodies(receiver)[0]["message"]
    assert bodies(receiver)[1]["text"].endswith("(this is over)")
    events = running.client.get("/v1/status").json()["alerts"]
    assert [event["over"] for event in events] == [False, True]
    assert "treadle_alerts 0.0" in running.client.get("/metrics").text


def test_a_webhook_that_hangs_holds_up_no_answer(serve: Serve, site: Any, receiver: Receiver, until: Until) -> None:
    receiver.pause = 8.0
    running = serve(f"serve.alerts.webhook={receiver.url}")
    site.ledger.promote(site.packages[2], "damaged")
    until(lambda: receiver.posted)
    start = time.monotonic()
    for _ in range(5):
        assert running.complete("x", max_tokens=2).status_code == 200
        assert running.client.get("/v1/status").status_code == 200
    assert time.monotonic() - start < 6
    assert running.client.get("/v1/status").json()["alerts"]


def test_it_is_tried_again_with_longer_and_longer_pauses(
    receiver: Receiver, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [500, 503, 429]
    hook = Webhook(receiver.url, tries=6, wait=0.2)
    hook.post({"name": "one"})
    hook.post({"name": "two"})
    until(lambda: len(receiver.posted) == 5)
    hook.close()
    assert [body["name"] for body in bodies(receiver)] == ["one"] * 4 + ["two"]
    pauses = [b.at - a.at for a, b in zip(receiver.posted[:4], receiver.posted[1:4], strict=False)]
    assert [pause >= wanted for pause, wanted in zip(pauses, (0.2, 0.4, 0.8), strict=True)] == [True] * 3
    assert caplog.text == ""


@pytest.mark.parametrize(("statuses", "tried", "said"), [([404], 1, "it answered 404"), ([302], 1, "it answered 302"),
                                                         ([500] * 9, 3, "it answered 500")])
def test_what_is_no_use_is_given_up_and_said_without_the_url(
    receiver: Receiver, until: Until, caplog: pytest.LogCaptureFixture, statuses: list[int], tried: int, said: str
) -> None:
    receiver.statuses = statuses
    hook = Webhook(f"{receiver.url}/s3cret?token=s3cret", tries=3, wait=0.01)
    hook.post({"name": "one"})
    until(lambda: said in caplog.text)
    hook.close()
    assert len(receiver.posted) == tried
    assert {posted.path for posted in receiver.posted} == {"/s3cret?token=s3cret"}  # and no redirection was followed
    assert "an alert could not be posted to 127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text


def test_no_one_there_is_said_without_the_url(until: Until, caplog: pytest.LogCaptureFixture) -> None:
    hook = Webhook("http://127.0.0.1:9/s3cret", tries=2, wait=0.01)
    hook.post({"name": "one"})
    until(lambda: "could not be posted to 127.0.0.1: ConnectionRefusedError" in caplog.text)
    hook.close()
    assert "s3cret" not in caplog.text


def test_posts_beyond_what_may_wait_are_given_up_at_once(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.pause = 5.0
    hook, start = Webhook(receiver.url, tries=1), time.monotonic()
    for number in range(300):
        hook.post({"number": number})
    assert time.monotonic() - start < 2
    assert caplog.text.count("an alert is not posted to 127.0.0.1") >= 190
    start = time.monotonic()
    hook.close()
    assert time.monotonic() - start < 5


def test_the_urls_name_is_filled_in_from_the_environment(
    serve: Serve, site: Any, receiver: Receiver, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"serve.alerts.webhook names \$HOOK_OF_TESTS"):
        serve("serve.alerts.webhook=$HOOK_OF_TESTS")
    monkeypatch.setenv("HOOK_OF_TESTS", f"{receiver.url}/s3cret")
    serve("serve.alerts.webhook=$HOOK_OF_TESTS")
    with caplog.at_level(logging.DEBUG):
        site.ledger.promote(site.packages[2], "damaged")
        until(lambda: receiver.posted)
    assert receiver.posted[0].path == "/s3cret"
    assert "s3cret" not in caplog.text
