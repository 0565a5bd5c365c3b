"""A shadow gets copies of requests: no user sees its answers, waits for them, or finds them among what was answered."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from every_input import project_with_every_input, row
from hypothesis import given
from hypothesis import strategies as st
from sites import Running, Site, running

from treadle.feedback.curate import curate
from treadle.serve import live as module
from treadle.serve import shadow
from treadle.serve.shadow import agreement, heads_agree
from treadle.store.standing import standing
from treadle.store.tables import shadows

Until = Callable[..., None]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)


def copied(site: Site, package: str) -> str:
    """A package of another id with the same weights."""
    id = site.store.identify("package", [], {"copy of": package}, 1)
    with site.store.create(id, parents=[], config={"copy of": package}, version=1, seed=0) as draft:
        for file in site.folder(package).iterdir():
            if file.name != "manifest.json":
                (draft.path / file.name).write_bytes(file.read_bytes())
    site.ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})
    return id


def begin(server: Running, until: Until, package: str, share: float | None = None) -> int:
    """The id of the rollout, once the shadow stands beside the live version."""
    server.site.ledger.record_artifact({"id": package, "kind": "package", "counts": {}, "parents": []})
    made = server.site.ledger.start_rollout("shadow", package, "to see", share)
    until(lambda: server.live.beside is not None and server.live.beside.rollout.id == made.id)
    return made.id


def filed(server: Running) -> list[Any]:
    """Every shadow answer with its text, oldest first."""
    return list(server.site.ledger._all(sa.select(shadows).order_by(shadows.c.at)))


def count(server: Running, outcome: str) -> float:
    return server.monitor.shadows.labels(outcome)._value.get()


def test_the_same_weights_say_the_same_and_users_get_the_live_answers(
    serve: Callable[..., Running], site: Site, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    rollout = begin(server, until, copied(site, site.packages[0]))
    worker, step = server.live.beside.worker, server.live.beside.worker._step
    monkeypatch.setattr(shadow, "PATIENCE", 60.0)  # a copy gives way to the next request, and is made all the same
    # Slower than the looks for users who wait: it does not give way to itself.
    monkeypatch.setattr(worker, "_step", lambda: (threading.Event().wait(2.5 * shadow._LOOK), step()))
    answers = [server.complete("def f", max_tokens=12, temperature=1.0, n=2, store=number % 2 == 0).json() for number in range(4)]
    assert {told["version"] for told in answers} == {1}
    until(lambda: len(filed(server)) == 8, seconds=60)
    by_answer = {row["answer"]: row for row in filed(server)}
    for told in answers:
        for choice in told["choices"]:
            found = by_answer[choice["id"]]
            assert (found["agreement"], found["rollout"], found["version"]) == (1.0, rollout, 2), "the seed is the live one's"
            assert found["text"] == (choice["text"] if told["stored"] else None)
            assert found["seconds"] > 0
            assert found["live_seconds"] > 0
            assert site.ledger.answer(choice["id"])["version"] == 1
    told = standing(site.ledger)
    assert (told.shadowed.answers, told.shadowed.same, told.shadowed.agreement) == (8, 8, 1.0)
    assert any("8 (100.0%) say the same" in line for line in told.lines())
    assert 'treadle_shadow_answers_total{outcome="filed"} 8.0' in server.client.get("/metrics").text


def test_other_weights_say_something_else(serve: Callable[..., Running], site: Site, until: Until) -> None:
    server = serve()
    begin(server, until, site.packages[1])
    message = [{"role": "user", "content": "hello"}]
    live = server.client.post("/v1/chat/completions", json={"model": "tiny", "messages": message, "max_tokens": 8, "store": True,
                                                            "temperature": 0}).json()
    until(lambda: len(filed(server)) == 1)
    (found,) = filed(server)
    site.ledger.promote_candidate("to ask it")
    until(lambda: server.live.version.number == 2)
    own = server.client.post("/v1/chat/completions", json={"model": "tiny", "messages": message, "max_tokens": 8,
                                                           "temperature": 0}).json()
    texts = [told["choices"][0]["message"]["content"] for told in (live, own)]
    same = next(place for place in range(12) if texts[0][place:place + 1] != texts[1][place:place + 1])
    assert found["text"] == texts[1], "what the candidate answers when it is live, from its own tokens and template"
    assert found["agreement"] == same / max(map(len, texts)) < 1


def test_no_one_can_ask_for_a_shadow_or_say_what_its_answer_was_worth(
    serve: Callable[..., Running], site: Site, until: Until
) -> None:
    server = serve("serve.store=always")
    begin(server, until, site.packages[1])
    secret = site.ledger.add_key("alice")
    body = {"model": "tiny", "prompt": "mail me at a.b@example.org", "max_tokens": 12, "temperature": 0}
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {secret}"}, timeout=60) as client:
        told = client.post("/v1/completions", json=body).json()
        until(lambda: len(filed(server)) == 1)
        assert client.post("/v1/completions", json=body, headers={"x-treadle-version": "2"}).status_code == 404
        (found,) = filed(server)
        response = client.post("/v1/feedback", json={"answer_id": found["id"], "rating": "up"})
        assert response.status_code == 404
        assert client.post("/v1/feedback", json={"answer_id": told["id"], "edited": "it is sent"}).status_code == 200
    until(lambda: site.ledger.list_keys()[0]["today"]["requests"] >= 2)
    used = site.ledger.list_keys()[0]["today"]
    assert used["tokens"] == told["usage"]["total_tokens"], "a copy costs the key nothing"
    assert site.ledger.totals() == {"answers": 1, "feedback": 1}
    records, _, account = curate([dict(said) for said in site.ledger.all_feedback()])
    assert account.entered == len(records) == 1
    assert records[0].meta["version"] == 1
    assert "a.b@example.org" not in str(found["text"])


def test_a_share_of_requests_is_copied(
    serve: Callable[..., Running], site: Site, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.serve.route._chance", random.Random(3))
    server = serve()
    begin(server, until, site.packages[1], share=0.4)
    drawn = random.Random(3)
    expected = [drawn.random() < 0.4 for _ in range(25)]
    ids = [server.complete("x", max_tokens=1).json()["id"] for _ in range(25)]
    wanted = {id for id, copy in zip(ids, expected, strict=True) if copy}
    until(lambda: {row["answer"] for row in filed(server)} == wanted)
    assert 4 < len(wanted) < 18


def test_a_shadow_gives_way_to_users_and_delays_none(
    serve: Callable[..., Running], site: Site, until: Until, monkeypatch: pytest.MonkeyPatch,
    gate: Callable[[], threading.Event],
) -> None:
    """It is stuck in a step here, and users are answered all the same; when they ask, what it writes is broken off. It begins again
    when they have been answered."""
    monkeypatch.setattr(shadow, "PATIENCE", 60.0)
    server = serve()
    begin(server, until, site.packages[1])
    worker, step, go = server.live.beside.worker, server.live.beside.worker._step, gate()
    monkeypatch.setattr(worker, "_step", lambda: go.wait(20) and step())
    assert server.complete("x", max_tokens=50, temperature=0).status_code == 200
    until(lambda: worker.active == 1)
    assert server.live.busy == 0, "nothing that a user or the end of the server would wait for"
    copy = worker._active[0]
    # A user's answer that is under way for as long as it takes: the live version is held in a step too.
    live, hold = server.live.worker, gate()
    live_step = live._step
    monkeypatch.setattr(live, "_step", lambda: hold.wait(20) and live_step())
    user = threading.Thread(target=lambda: server.complete("y", max_tokens=1))
    user.start()
    until(lambda: copy.cancelled)
    go.set()
    until(lambda: not worker.active)
    assert count(server, "filed") == 0
    assert filed(server) == []
    hold.set()
    user.join()
    until(lambda: count(server, "filed") == 2)  # the one that was broken off, and the copy of that user's request
    assert count(server, "dropped") == 0


@pytest.mark.parametrize(("most", "patience", "dropped"), [(2, 20.0, 2), (64, 0.3, 5)])
def test_copies_that_find_no_moment_are_dropped_and_counted(
    serve: Callable[..., Running], site: Site, until: Until, monkeypatch: pytest.MonkeyPatch,
    gate: Callable[[], threading.Event], most: int, patience: float, dropped: int,
) -> None:
    monkeypatch.setattr(shadow, "MOST", most)
    monkeypatch.setattr(shadow, "PATIENCE", patience)
    server = serve()
    begin(server, until, site.packages[1])
    live, step, end = server.live.worker, server.live.worker._step, gate()
    monkeypatch.setattr(live, "_step", lambda: (end.wait(0.01), step()))  # so that one user's answer lasts as long as the rest
    long = threading.Thread(target=lambda: server.complete("y", max_tokens=1000, logit_bias={"0": -100}))
    long.start()
    until(lambda: live.active)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(5):
            body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 200
    # One is taken up, two wait, two find no room; or there is room, and their time is over.
    until(lambda: count(server, "dropped") == dropped)
    assert live.active == 1
    assert filed(server) == []
    end.set()
    long.join()
    until(lambda: count(server, "filed") + count(server, "dropped") == 6)
    assert 5 - dropped <= len(filed(server)) <= 6 - dropped, "the long one's own copy may find no room either"


def test_a_shadow_that_fails_is_filed_as_such_and_harms_no_one(
    serve: Callable[..., Running], site: Site, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    begin(server, until, site.packages[1])

    def broken() -> None:
        raise RuntimeError("not a number")

    monkeypatch.setattr(server.live.beside.worker, "_step", broken)
    for number in range(12):
        assert server.complete("x", max_tokens=1).json()["version"] == 1
        until(lambda number=number: len(filed(server)) == number + 1)
    assert {(row["finish_reason"], row["agreement"]) for row in filed(server)} == {("error", 0.0)}
    assert standing(site.ledger).shadowed.errors == 12
    assert site.ledger.rollout() is not None, "only what users get is taken out for its failures"


def test_records_are_copied_too(tmp_path: Path, until: Until) -> None:
    project, store, ledger, id = project_with_every_input(tmp_path / "sky")
    site = Site(project, store, ledger, (id, id, id))
    draw = random.Random(1)
    asked = [{key: value for key, value in row(draw).items() if key not in ("rain", "millimetres", "cloud")} for _ in range(3)]
    with running(site, (), "127.0.0.1") as server:
        begin(server, until, copied(site, id))
        for store_it in (False, True):
            told = server.client.post("/v1/predict", json={"inputs": asked, "store": store_it}).json()
            assert told["version"] == 1
        until(lambda: len(filed(server)) == 6)
        found = {shadow["answer"]: shadow for shadow in filed(server)}
        assert all(shadow["agreement"] == 1.0 for shadow in found.values())
        kept = [found[prediction["id"]]["text"] for prediction in told["predictions"]]
        assert [json.loads(text) for text in kept] == [
            {name: head["answer"] for name, head in prediction["heads"].items()} for prediction in told["predictions"]
        ]
        assert sum(shadow["text"] is None for shadow in found.values()) == 3
    ledger.close()


@given(st.text(alphabet="ab", max_size=12), st.text(alphabet="ab", max_size=12))
def test_texts_agree_up_to_where_they_part(one: str, other: str) -> None:
    assert agreement(one, other) == agreement(other, one)
    assert (agreement(one, other) == 1) == (one == other)
    if one or other:
        same = round(agreement(one, other) * max(len(one), len(other)))
        assert agreement(one, other) == same / max(len(one), len(other))
        assert one[:same] == other[:same]
        assert one == other or one[: same + 1] != other[: same + 1]


@pytest.mark.parametrize(("live", "candidate", "share"), [
    ({"a": "x", "b": 1.0}, {"a": "x", "b": 1.005}, 1.0), ({"a": "x", "b": 1.0}, {"a": "x", "b": 1.02}, 0.5),
    ({"a": "x"}, {"a": "y"}, 0.0), ({"a": ["p", "q"]}, {"a": ["p"]}, 0.0), ({"a": [1.0, -2.0]}, {"a": [1.0, -2.001]}, 1.0),
    ({"a": [1.0, -2.0]}, {"a": [1.0, 2.0]}, 0.0), ({"a": [{"start": 1, "probability": 0.5}]}, {"a": [{"start": 1,
     "probability": 0.501}]}, 1.0), ({"a": [{"start": 1}]}, {"a": [{"start": 2}]}, 0.0), ({"a": 1.0}, {}, 0.0),
    ({"a": 0.0}, {"a": 0.0}, 1.0), ({"a": "x", "b": "y"}, {"a": "x", "b": "y", "c": "z"}, 1.0),
])
def test_heads_agree_where_they_say_the_same(live: dict[str, Any], candidate: dict[str, Any], share: float) -> None:
    def plain(heads: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {name: {"answer": answer} for name, answer in heads.items()}

    assert heads_agree(plain(live), plain(candidate)) == share
