"""A candidate answers a share of requests, the same users' always, or who asks for it; it comes and goes, no request is dropped."""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from every_input import project_with_every_input, row
from sites import Crowd, Running, Site, running
from tagged import tagged_project

from treadle.data.chance import point_of
from treadle.serve import live as module
from treadle.serve import route
from treadle.serve.engine import Settings
from treadle.serve.predictor import Predictor

Until = Callable[..., None]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)
    monkeypatch.setattr(route, "_chance", random.Random(7))


@pytest.fixture
def known(site: Site) -> Site:
    """Its other packages are in the ledger too, one of them damaged."""
    for id in site.packages:
        site.ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})
    return site


def begin(server: Running, until: Until, kind: Any = "canary", share: float | None = None, package: int = 1) -> int:
    """The version of the candidate, once it stands beside the live one."""
    made = server.site.ledger.start_rollout(kind, server.site.packages[package], "to see", share)
    until(lambda: server.live.beside is not None and server.live.beside.rollout.id == made.id)
    return made.version


def versions(server: Running, count: int, **fields: Any) -> Counter[int]:
    return Counter(server.complete("x", max_tokens=1, **fields).json()["version"] for _ in range(count))


def test_a_share_of_requests_goes_to_the_candidate(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    assert versions(server, 5) == {1: 5}
    begin(server, until, share=0.3)
    drawn = random.Random(7)
    for _ in range(5):
        drawn.random()  # the requests before
    expected = Counter(2 if drawn.random() < 0.3 else 1 for _ in range(60))
    assert versions(server, 60) == expected
    assert 8 <= expected[2] <= 28
    begin(server, until, share=1.0)
    assert versions(server, 5) == {2: 5}


def test_a_user_keeps_the_version_and_more_users_get_it_as_the_share_grows(
    serve: Callable[..., Running], known: Site, until: Until
) -> None:
    server = serve()
    begin(server, until, share=0.5)
    users = [f"user {number}" for number in range(24)]
    given = {user: set(versions(server, 3, user=user)) for user in users}
    assert all(len(found) == 1 for found in given.values())
    first = {user for user in users if given[user] == {2}}
    assert first == {user for user in users if point_of(f"\0{user}", 2) < 0.5}
    assert 5 <= len(first) <= 19
    begin(server, until, share=0.75)
    second = {user for user in users if set(versions(server, 1, user=user)) == {2}}
    assert first < second


def test_a_key_keeps_the_version(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    begin(server, until, share=0.5)
    found = []
    for number in range(12):
        secret = known.ledger.add_key(f"key {number}")
        with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {secret}"}, timeout=60) as client:
            body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
            answers = {client.post("/v1/completions", json=body).json()["version"] for _ in range(3)}
        assert len(answers) == 1
        found.append(answers.pop())
    assert found == [2 if point_of(f"key {number}\0", 2) < 0.5 else 1 for number in range(12)]


def test_a_version_can_be_asked_for(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    rollout = begin(server, until, share=0.01)
    body = {"model": "tiny", "prompt": "def f", "max_tokens": 8, "temperature": 0}

    def ask(version: str) -> httpx.Response:
        return server.client.post("/v1/completions", json=body, headers={"x-treadle-version": version})

    texts = {}
    for version in (1, 2):
        response = ask(str(version))
        assert (response.headers["x-treadle-version"], response.json()["version"]) == (str(version), version)
        texts[version] = response.json()["choices"][0]["text"]
        filed = known.ledger.answer(response.json()["id"])
        assert (filed["version"], filed["package"], filed["rollout"]) == (version, known.packages[version - 1], None)
    assert texts[1] != texts[2]
    assert ask("3").status_code == 404
    assert "ask for 1, the live one, or 2 for the candidate" in ask("3").json()["error"]["message"]
    for wrong in ("x", "-1", "1.0", "9" * 30, ""):
        assert ask(wrong).status_code == 400
    # What was drawn by chance is filed under the rollout, of either side.
    drawn = known.ledger.answer(server.client.post("/v1/completions", json=body).json()["id"])
    assert drawn["rollout"] == known.ledger.rollout().id
    known.ledger.stop_rollout("seen")
    until(lambda: server.live.beside is None)
    assert ask(str(rollout)).status_code == 404
    assert known.ledger.answer(server.client.post("/v1/completions", json=body).json()["id"])["rollout"] is None


def test_all_answers_to_one_request_are_of_one_version(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    begin(server, until, share=0.5)
    for _ in range(6):
        response = server.complete("x", max_tokens=1, n=3).json()
        ids = [choice["id"] for choice in response["choices"]]
        assert {known.ledger.answer(id)["version"] for id in ids} == {response["version"]}


def test_coming_changing_promoting_and_going_back_drop_nothing(
    serve: Callable[..., Running], known: Site, until: Until,
    gate: Callable[[], threading.Event],
) -> None:
    server = serve("serve.queue=64")
    with Crowd(server.url, 40) as crowd:
        until(lambda: crowd.answered(1, 6))
        begin(server, until, share=0.5)
        worker = server.live.beside.worker
        until(lambda: crowd.answered(2, 10))
        known.ledger.stop_rollout("worse")
        until(lambda: worker.done)
        crowd.forget()
        until(lambda: crowd.answered(1, 12))
        assert not crowd.answered(2, 7), "those that were under way may still end"
        begin(server, until, share=0.3)
        worker = server.live.beside.worker
        known.ledger.promote_candidate("better")
        until(lambda: server.live.version.number == 2)
        assert server.live.worker is worker, "what stood beside is live at once, it is not loaded again"
        assert server.live.beside is None
        crowd.forget()
        until(lambda: crowd.answered(2, 12))
        known.ledger.rollback("worse")
        until(lambda: server.live.version.number == 1)
        crowd.forget()
        until(lambda: crowd.answered(1, 12))
    assert crowd.failures == []
    texts = {version: {text for given, _, text in crowd.results if given == version and text} for version in (1, 2)}
    assert [len(found) for found in texts.values()] == [1, 1], "each version's answers are its own weights'"
    for version, id, _ in crowd.results:
        filed = known.ledger.answer(id)
        assert (filed["version"], filed["package"]) == (version, known.packages[version - 1])


def test_what_a_candidate_began_it_finishes(
    serve: Callable[..., Running], known: Site, until: Until, monkeypatch: pytest.MonkeyPatch,
    gate: Callable[[], threading.Event],
) -> None:
    server = serve()
    begin(server, until, share=1.0)
    worker, go = server.live.beside.worker, gate()
    step = worker._step
    monkeypatch.setattr(worker, "_step", lambda: go.wait(20) and step())
    found: list[httpx.Response] = []
    under_way = threading.Thread(target=lambda: found.append(server.complete("x", max_tokens=4)))
    under_way.start()
    until(lambda: worker.active)
    known.ledger.stop_rollout("no more")
    until(lambda: server.live.beside is None)
    assert [role["role"] for role in server.live.roles()] == ["live", "retired"]
    assert server.live.busy == 1, "the server does not stop before it is done"
    go.set()
    under_way.join()
    assert (found[0].status_code, found[0].json()["version"]) == (200, 2)
    until(lambda: not server.live._retired)
    # Whatever a way led to before, it counts for no rollout now.
    led = route.Route(rollout=99)
    server.live.ask(lambda engine: engine.prepare("x", Settings(1), lambda piece: None), led)
    assert led.rollout is None


def test_a_rollback_ends_the_rollout(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    known.ledger.promote(known.packages[1], "better")
    until(lambda: server.live.version.number == 2)
    begin(server, until, share=1.0, package=0)
    assert versions(server, 2) == {1: 2}
    known.ledger.rollback("away")
    until(lambda: server.live.beside is None and server.live.version.number == 1)
    assert known.ledger.rollout() is None
    assert server.live.roles()[0]["role"] == "live"


def test_a_candidate_that_cannot_be_loaded_changes_nothing_and_is_told(
    serve: Callable[..., Running], known: Site, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    known.ledger.start_rollout("canary", known.packages[2], "damaged", 1.0)
    until(lambda: server.live.failed)
    ready = server.client.get("/readyz")
    assert (ready.status_code, ready.json()["version"]) == (200, 1)
    assert (ready.json()["failed"]["version"], ready.json()["failed"]["role"]) == (2, "candidate")
    assert "sha256" in ready.json()["failed"]["message"]
    assert "treadle_swap_failed 1.0" in server.client.get("/metrics").text
    assert versions(server, 3) == {1: 3}
    begin(server, until, share=1.0)  # another one takes its place
    assert server.client.get("/readyz").json()["failed"] is None
    assert versions(server, 1) == {3: 1}
    # A live version that cannot be loaded is told first, and the candidate ends with it.
    known.ledger.promote(known.packages[2], "damaged")
    until(lambda: server.live.failed and server.live.beside is None)
    assert server.client.get("/readyz").json()["failed"]["role"] == "live"
    assert versions(server, 1) == {1: 1}


def test_what_is_at_work_is_told_with_its_share(serve: Callable[..., Running], known: Site, until: Until) -> None:
    server = serve()
    begin(server, until, share=0.25)
    told = [(role["version"], role["package"], role["role"], role["share"]) for role in server.live.roles()]
    assert told == [(1, known.packages[0], "live", 0.75), (2, known.packages[1], "canary", 0.25)]
    begin(server, until, kind="shadow")
    assert [(role["role"], role["share"]) for role in server.live.roles()] == [("live", 1.0), ("shadow", 1.0)]


def test_a_candidate_that_fails_more_often_is_taken_out_and_audited(
    serve: Callable[..., Running], known: Site, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    begin(server, until, share=0.5)

    def broken() -> None:
        raise RuntimeError("the weights of the candidate are not numbers")

    monkeypatch.setattr(server.live.beside.worker, "_step", broken)
    codes: Counter[int] = Counter()
    for _ in range(120):
        codes[server.complete("x", max_tokens=1).status_code] += 1
        if server.live.beside is None or server.live.beside.harm.reason:
            break
    until(lambda: server.live.beside is None)
    assert codes[500] >= 8, "fewer failures could be chance"
    assert codes[500] <= 20
    assert known.ledger.rollout() is None
    end = known.ledger.audit()[-1]
    assert (end["action"], end["detail"]["outcome"]) == ("end rollout", "stopped")
    assert "fails more often" in end["detail"]["reason"]
    assert versions(server, 5) == {1: 5}


def test_when_the_candidate_is_full_the_live_version_helps_out(
    serve: Callable[..., Running], known: Site, until: Until, monkeypatch: pytest.MonkeyPatch,
    gate: Callable[[], threading.Event],
) -> None:
    server = serve("serve.slots=1", "serve.queue=0")
    begin(server, until, share=1.0)
    worker, go = server.live.beside.worker, gate()
    step = worker._step
    monkeypatch.setattr(worker, "_step", lambda: go.wait(20) and step())
    found: list[int] = []
    first = threading.Thread(target=lambda: found.append(server.complete("x", max_tokens=1).json()["version"]))
    first.start()
    until(lambda: worker.active)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        other = client.post("/v1/completions", json=body)
        assert (other.status_code, other.json()["version"]) == (200, 1)
        assert known.ledger.answer(other.json()["id"])["rollout"] is None
        asked = client.post("/v1/completions", json=body, headers={"x-treadle-version": "2"})
        assert asked.status_code == 429, "who asks for a version by number gets no other"
    go.set()
    first.join()
    assert found == [2]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Running]:
    """A server of a model of records."""
    project, store, ledger, id = project_with_every_input(tmp_path / "sky")
    other = store.identify("package", [], {"again": True}, 1)
    with store.create(other, parents=[], config={"again": True}, version=1, seed=0) as draft:
        for file in store.folder(id).iterdir():
            if file.name != "manifest.json":
                (draft.path / file.name).write_bytes(file.read_bytes())
    ledger.record_artifact({"id": other, "kind": "package", "counts": {}, "parents": []})
    with running(Site(project, store, ledger, (id, other, other)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


def test_records_are_answered_by_both(records: Running, until: Until) -> None:
    asked = {key: value for key, value in row(random.Random(1)).items() if key not in ("rain", "millimetres", "cloud")}

    def ask(**headers: str) -> httpx.Response:
        return records.client.post("/v1/predict", json={"inputs": asked}, headers=headers)

    first = ask()
    assert first.status_code == 200, first.text
    begin(records, until, share=0.5)
    found = [ask().json() for _ in range(30)]
    assert set(Counter(told["version"] for told in found)) == {1, 2}
    for told in found:
        filed = records.site.ledger.answer(told["predictions"][0]["id"])
        assert (filed["version"], filed["rollout"]) == (told["version"], records.site.ledger.rollout().id)
    assert ask(**{"x-treadle-version": "2"}).headers["x-treadle-version"] == "2"
    assert ask(**{"x-treadle-version": "7"}).status_code == 404


def test_a_candidate_of_another_kind_does_not_stand_beside(
    serve: Callable[..., Running], known: Site, until: Until, tmp_path: Path
) -> None:
    server = serve()
    assert not isinstance(server.live.worker, Predictor)
    _, store, other, id = tagged_project(tmp_path / "tagged")
    other.close()
    shutil.copytree(store.folder(id), known.store.folder(id))
    known.ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})
    known.ledger.start_rollout("canary", id, "another kind", 1.0)
    until(lambda: server.live.failed)
    assert "side by side" in server.live.failed.message
    assert versions(server, 2) == {1: 2}
