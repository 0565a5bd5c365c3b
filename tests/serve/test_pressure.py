"""More asked than can be answered: what is late is given up, what is pressing goes first, keys share, and a failure fails alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from treadle.data.shards import END_ID
from treadle.model.memory import Memory, Part
from treadle.serve.engine import Engine

Serve = Callable[..., Any]
LONG = {"model": "tiny", "prompt": "def f", "max_tokens": 1000, "temperature": 0}


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take as long as those of a larger model."""
    real = Engine._read

    def read(*given: Any) -> torch.Tensor:
        time.sleep(0.01)
        return real(*given)

    monkeypatch.setattr(Engine, "_read", read)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as made:
        yield made


def post(running: Any, secret: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.post(f"{running.url}/v1/completions", json=LONG | fields, headers=headers, timeout=60)


def late(response: httpx.Response) -> bool:
    error = response.json()["error"]
    return (response.status_code, error["type"], error["code"]) == (504, "server_error", "deadline_exceeded")


def outcomes(running: Any) -> dict[str, int]:
    """How answers ended, by the ledger, with the tokens of each."""
    with running.site.ledger._engine.connect() as connection:
        rows = connection.exec_driver_sql("select finish_reason, answer_tokens from answers order by at").all()
    return dict(rows)


@pytest.mark.usefixtures("pace")
def test_what_is_not_done_in_its_time_is_504_and_frees_its_place(serve: Serve, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1")
    start = time.monotonic()
    assert late(post(running, timeout=0.4))
    assert 0.3 < time.monotonic() - start < 5
    until(lambda: running.live.busy == 0)
    (ended,) = outcomes(running).items()
    assert ended[0] == "late"
    assert 0 < ended[1] < 500


@pytest.mark.usefixtures("pace")
def test_what_waits_too_long_is_504_before_its_turn(serve: Serve, pool: ThreadPoolExecutor, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1")
    first = pool.submit(post, running, max_tokens=400)
    until(lambda: running.live.worker.active)
    start = time.monotonic()
    assert late(post(running, timeout=0.3))
    assert time.monotonic() - start < 2  # the first takes 4
    assert first.result().status_code == 200
    assert outcomes(running) == {"late": 0, "length": 400}


@pytest.mark.usefixtures("pace")
def test_the_servers_own_deadline_holds_for_all_and_a_stream_says_so(serve: Serve) -> None:
    running = serve("serve.deadline=0.5 s")
    assert late(post(running))
    assert late(post(running, timeout=100))
    lines = post(running, stream=True).text.split("\n\n")
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert len(lines) > 3
    assert post(running, max_tokens=2).status_code == 200


@pytest.mark.usefixtures("pace")
def test_what_is_more_pressing_is_answered_first(serve: Serve, pool: ThreadPoolExecutor, until: Callable[..., None]) -> None:
    running, order = serve("serve.slots=1"), list[str]()

    def ask(name: str, **fields: Any) -> None:
        assert post(running, max_tokens=200 if name == "first" else 10, **fields).status_code == 200
        order.append(name)

    for place, (name, priority) in enumerate([("first", 0), ("batch", 7), ("usual", None), ("batch 2", 7)]):
        pool.submit(ask, name, priority=priority)
        until(lambda place=place: running.live.busy == place + 1)
    until(lambda: len(order) == 4)
    assert order == ["first", "usual", "batch", "batch 2"]


@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("weight", [1, 4])
def test_a_key_that_asks_much_does_not_hold_up_the_others(
    serve: Serve, pool: ThreadPoolExecutor, until: Callable[..., None], site: Any, weight: int
) -> None:
    much = site.ledger.add_key("much", limits={"weight": float(weight)})
    little, order = site.ledger.add_key("little"), list[str]()
    running = serve("serve.slots=1")

    def ask(name: str, secret: str, tokens: int) -> None:
        assert post(running, secret, max_tokens=tokens).status_code == 200
        order.append(name)

    for place in range(6):
        pool.submit(ask, "much", much, 20 if place else 400)
        until(lambda place=place: running.live.busy == place + 1)
    for _ in range(2):
        pool.submit(ask, "little", little, 150)
    until(lambda: len(order) == 8)
    # What a written token counts is 2: the first answer 800, beside which two of 300 are little; with a weight of 4 it is 200
    # alone, and those of 20 tokens 10 each.
    assert [place for place, name in enumerate(order) if name == "little"] == ([1, 2] if weight == 1 else [1, 7])
    until(lambda: not running.live.worker._line._served)  # with no one here, no one is ahead


@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("stream", [True, False])
def test_who_fills_the_queue_makes_room_for_another_key(
    serve: Serve, pool: ThreadPoolExecutor, until: Callable[..., None], site: Any, stream: bool
) -> None:
    greedy, modest = site.ledger.add_key("greedy"), site.ledger.add_key("modest")
    running = serve("serve.slots=1", "serve.queue=3")
    asked = [pool.submit(post, running, greedy, max_tokens=150, stream=stream) for _ in range(4)]
    until(lambda: running.live.busy == 4)
    refused = post(running, greedy)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert post(running, modest, max_tokens=4).status_code == 200
    statuses = sorted(one.result().status_code for one in asked)
    assert statuses == [200, 200, 200, 429]
    put_out = next(one.result() for one in asked if one.result().status_code == 429)
    assert int(put_out.headers["retry-after"]) >= 1
    assert "all slots are taken" in put_out.json()["error"]["message"]
    assert site.ledger.totals()["answers"] == 4
    counted = [line for line in running.client.get("/metrics").text.splitlines() if 'total{finish_reason="refused"' in line]
    assert [line.rpartition(" ")[2] for line in counted] == ["1.0"]


@pytest.mark.usefixtures("pace")
def test_where_one_of_several_answers_is_put_out_the_others_are_in_vain(
    serve: Serve, pool: ThreadPoolExecutor, until: Callable[..., None], site: Any
) -> None:
    greedy, modest = site.ledger.add_key("greedy"), site.ledger.add_key("modest")
    running = serve("serve.slots=1", "serve.queue=2")
    asked = pool.submit(post, running, greedy, n=3)
    until(lambda: running.live.busy == 3)
    start = time.monotonic()
    assert post(running, modest, max_tokens=4).status_code == 200
    assert asked.result().status_code == 429
    assert time.monotonic() - start < 5  # one answer takes 10


def test_one_answer_for_which_memory_is_short_fails_alone(
    serve: Serve, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, real = serve("serve.slots=3"), Engine._read
    alone = {prompt: post(running, prompt=prompt, max_tokens=300).json()["choices"][0]["text"] for prompt in ("a", "def b(")}
    together = threading.Event()

    def read(engine: Engine, parts: list[Part]) -> torch.Tensor:
        together.wait(0.01)
        if any(len(part.tokens) > 200 for part in parts):
            if len(parts) > 1:
                together.set()
            raise MemoryError("cannot allocate 12 GB")
        return real(engine, parts)

    monkeypatch.setattr(Engine, "_read", read)
    others = {prompt: pool.submit(post, running, prompt=prompt, max_tokens=300) for prompt in alone}
    failing = [post(running, prompt=[END_ID + 3 + place % 50 for place in range(400)], max_tokens=4) for _ in range(3)]
    assert [one.status_code for one in failing] == [500] * 3
    assert together.is_set()
    assert {prompt: one.result().json()["choices"][0]["text"] for prompt, one in others.items()} == alone


def test_what_failed_while_it_was_read_is_known_to_no_later_answer(template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that were never filled must not be taken for the beginning of a text."""
    from treadle.model.generate import make_memory
    from treadle.model.hub import load_model

    folder, ids = template
    model = load_model(folder / ".treadle" / "artifacts" / "package" / ids[0].partition("-")[2])
    memory: Memory = make_memory(model, 2, None)
    if not hasattr(memory, "decoder"):
        pytest.skip("there is no compiler, and so no pages")
    tokens = [END_ID, *range(5, 60)]

    def broken(*_: Any) -> None:
        raise MemoryError

    assert memory.admit(0, tokens, 80) == 0
    with monkeypatch.context() as patch:
        patch.setattr(type(memory.decoder), "read", broken)
        with pytest.raises(MemoryError):
            memory.read_parts(model, [Part(0, tokens)])
    assert memory.lengths[0] == 0
    memory.release(0)
    assert memory.admit(1, tokens, 80) == 0
    expected = memory.read_parts(model, [Part(1, tokens)])
    memory.release(1)
    assert memory.admit(0, tokens, 80) == 48
    assert torch.equal(memory.read_parts(model, [Part(0, tokens[48:])]), expected)
