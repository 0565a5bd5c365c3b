"""A quick model answers on the event loop, a slow one on its thread; both the same, both bounded."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_records import rows, write_records_project
from treadle.core.errors import RequestError
from treadle.core.project import load_project
from treadle.data.schema import Schema
from treadle.model.layers.quantized import quantize_modules
from treadle.model.network import Network, load_network
from treadle.pipeline import Workshop, build, plan
from treadle.serve import predictor as module
from treadle.serve.line import Asker, Late
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.predictor import Predictor, predict
from treadle.serve.route import Route
from treadle.serve.version import Full, Retired, Version


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    workshop = Workshop.open(write_records_project(folder))
    build(workshop, plan(workshop))
    return folder


@pytest.fixture
def made(folder: Path) -> Iterator[Predictor]:
    workshop = Workshop.open(load_project(folder))
    path = workshop.store.open(workshop.ledger.must_be_live()["package"]).path
    predictor = Predictor(load_network(path), Schema.load(path), Version(1, "p", 0), 8)
    yield predictor
    predictor.stop()


def plain(predictor: Predictor, count: int) -> list[Any]:
    raw = [{key: row[key] for key in ("pressure", "sky", "note")} for row in rows(4 * count, 5) if row["pressure"] != ""]
    return [predictor.schema.parse(row, answers=False) for row in raw[:count]]


def told(found: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(one["rain"]["answer"], round(one["millimetres"]["answer"], 3)) for one in found]


def test_what_is_asked_in_one_turn_of_the_loop_is_one_batch_with_the_answers_of_each_alone(
    made: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, batches = plain(made, 6), []

    def counted(network: Any, schema: Any, part: Any) -> Any:
        batches.append((len(part), threading.current_thread()))
        return predict(network, schema, part)

    monkeypatch.setattr(module, "predict", counted)

    async def ask() -> list[Any]:
        parts = [asked[:1], asked[1:2], asked[2:4], asked[4:]]
        return [one for answers in await asyncio.gather(*map(made.answer, parts)) for one in answers]

    found = asyncio.run(ask())
    assert batches == [(6, threading.current_thread())]
    assert told(found) == [told(predict(made.network, made.schema, [row]))[0] for row in asked]


def test_what_turns_of_the_loop_bring_one_after_the_other_is_one_batch(made: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy server; and where a turn brings nothing, nothing more is waited for."""
    batches: list[int] = []
    monkeypatch.setattr(module, "predict", lambda network, schema, part: batches.append(len(part)) or [{} for _ in part])
    row = plain(made, 1)

    async def ask() -> None:
        futures = []
        for _ in range(5):
            futures.append(made.answer(row))
            await asyncio.sleep(0)  # a turn
        for _ in range(3):
            await asyncio.sleep(0)
        futures.append(made.answer(row))
        await asyncio.gather(*futures)

    asyncio.run(ask())
    assert batches == [5, 1]


def test_more_than_a_quick_batch_is_computed_in_several_turns(made: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUICK_ROWS", 4)
    asked, order = plain(made, 6), []

    async def ask() -> list[Any]:
        futures = [made.answer([row]) for row in asked]
        futures[3].add_done_callback(lambda _: asyncio.get_running_loop().call_soon(order.append, "between"))
        futures[4].add_done_callback(lambda _: order.append("second batch"))
        return [one for answers in await asyncio.gather(*futures) for one in answers]

    assert told(asyncio.run(ask())) == told(predict(made.network, made.schema, asked))
    assert sorted(order) == ["between", "second batch"]


def test_it_is_bounded_as_the_thread_is_and_a_failure_or_a_client_that_left_harms_no_other(
    made: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = plain(made, 1)

    async def ask() -> None:
        futures = [made.answer(row) for _ in range(8)]
        with pytest.raises(Full):
            made.answer(row)
        assert made.waiting == 8
        futures[2].cancel()
        assert [len(answers) for answers in await asyncio.gather(*futures[:2], *futures[3:])] == [1] * 7
        assert made.waiting == 0
        monkeypatch.setattr(module, "predict", lambda *_: 1 / 0)
        with pytest.raises(RequestError, match="failed at this request"):
            await made.answer(row)
        monkeypatch.undo()
        assert len(await made.answer(row)) == 1
        last = made.answer(row)
        made.retire()
        with pytest.raises(Retired):
            made.answer(row)
        made._thread.join()
        assert not made.done
        assert len(await last) == 1

    asyncio.run(ask())
    made.stop()
    assert made.done


@pytest.mark.parametrize(("quick", "few", "here"), [(1e9, True, True), (1e9, False, False), (0.0, True, False)])
def test_few_records_of_a_quick_model_are_answered_on_the_loop_and_no_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, quick: float, few: bool, here: bool
) -> None:
    """Quick is what has been computed quickly: the first batch is the thread's in any case."""
    monkeypatch.setattr(module, "QUICK", quick)
    workshop, threads = Workshop.open(load_project(folder)), []

    def noted(network: Any, schema: Any, part: Any) -> Any:
        threads.append(threading.current_thread())
        return predict(network, schema, part)

    monkeypatch.setattr(module, "predict", noted)
    live = LiveModel(workshop.store, workshop.ledger, workshop.project.spec.serve, Monitor())
    worker = live.worker
    assert isinstance(worker, Predictor)
    asked = plain(worker, 1)

    async def ask() -> None:
        for _ in range(2):
            _, _, future = live.predict(lambda schema: asked, Route(), few)
            await (future if asyncio.isfuture(future) else asyncio.wrap_future(future))

    try:
        assert not worker.quick
        asyncio.run(ask())
        assert [thread is threading.current_thread() for thread in threads] == [False, here]
    finally:
        live.close()


def test_a_model_that_turns_slow_goes_back_to_its_thread(made: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    row = plain(made, 1)
    clock = iter([0.0, 0.001, 0.0, 0.1])
    monkeypatch.setattr(module.time, "thread_time", lambda: next(clock))
    made.submit(row).result(30)
    assert made.quick

    async def ask() -> None:
        await made.answer(row)

    asyncio.run(ask())
    assert not made.quick


def test_one_request_at_fault_fails_alone(made: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = plain(made, 3)[:2], plain(made, 3)[2]
    hold = threading.Event()

    def weak(network: Any, schema: Any, part: Any) -> Any:
        hold.wait(30)
        if bad in part:
            raise MemoryError("cannot allocate")
        return predict(network, schema, part)

    monkeypatch.setattr(module, "predict", weak)
    futures = [made.submit(part) for part in (good[:1], [bad], good[1:])]
    hold.set()
    assert told(futures[0].result(30)) + told(futures[2].result(30)) == told(predict(made.network, made.schema, good))
    with pytest.raises(RequestError, match="failed at this request"):
        futures[1].result(30)


def test_what_is_late_or_was_taken_back_is_not_computed_and_keys_take_turns(
    made: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, hold, seen = plain(made, 6), threading.Event(), list[Any]()
    monkeypatch.setattr(module, "ROWS", 1)

    def noted(network: Any, schema: Any, part: Any) -> Any:
        seen.extend(part)
        hold.wait(30)
        return predict(network, schema, part)

    monkeypatch.setattr(module, "predict", noted)
    first = made.submit(rows[:1], Asker("much"))
    while not made.active:
        time.sleep(0.001)
    asked = [made.submit([rows[1]], Asker("much")), made.submit([rows[2]], Asker("much", until=time.monotonic())),
             made.submit([rows[3]], Asker("much")), made.submit([rows[5]], Asker("much")), made.submit([rows[4]], Asker("little"))]
    asked[2].cancel()
    hold.set()
    with pytest.raises(Late):
        asked[1].result(30)
    assert [len(future.result(30)) for future in (first, asked[0], asked[3], asked[4])] == [1] * 4
    assert [rows.index(row) for row in seen] == [0, 1, 4, 5]  # little comes when as much was done for both


def test_what_is_taken_back_in_the_moment_in_which_it_is_taken_up_or_put_out_harms_no_other(
    made: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, hold = plain(made, 4), threading.Event()
    monkeypatch.setattr(module, "ROWS", 1)

    def held(network: Any, schema: Any, part: Any) -> Any:
        hold.wait(30)
        return predict(network, schema, part)

    monkeypatch.setattr(module, "predict", held)
    first = made.submit(rows[:1], Asker("much"))
    while not made.active:
        time.sleep(0.001)
    waiting = [made.submit([rows[1]], Asker("much")) for _ in range(8)]
    waiting[7].cancel()
    other = made.submit([rows[2]], Asker("little"))  # it takes the place of the one that was taken back
    looked = type(waiting[0]).cancelled  # a look alone tells nothing of the next moment
    monkeypatch.setattr(waiting[0], "cancelled", lambda: looked(waiting[0]) or (waiting[0].cancel() and False), raising=False)
    waiting[1].cancel()
    hold.set()
    assert [len(future.result(30)) for future in (first, other, *waiting[2:7])] == [1] * 7
    assert made._thread.is_alive()


def test_a_large_network_goes_to_the_gpu_and_a_small_or_an_int8_one_does_not(
    made: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is a device that holds no numbers."""
    monkeypatch.setattr(module, "best_device", lambda: torch.device("meta"))

    def where(network: Network) -> str:
        predictor = Predictor(network, made.schema, Version(1, "p", 0), 8)
        predictor.stop()
        return next(chain(predictor.network.parameters(), predictor.network.buffers())).device.type

    assert where(copy.deepcopy(made.network)) == "cpu"
    monkeypatch.setattr(module, "SMALL", 1)
    packed = copy.deepcopy(made.network)
    quantize_modules(packed)
    assert (where(packed), where(copy.deepcopy(made.network))) == ("cpu", "meta")
