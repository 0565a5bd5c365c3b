"""Drift while it is served: what is like the training data raises nothing, what is not does, and nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sites import Running, Site, running

from tiny import write_project
from tiny_records import rows, write_records_project
from treadle.data.reference import FILE, Reference, References, Seen, save_references, seen_tokens
from treadle.pipeline import Workshop, build, live_package
from treadle.serve.asked import Asked, Written
from treadle.serve.drift import BLOCK, BLOCKS, Drift, Window
from treadle.serve.version import Version
from treadle.store.artifacts import Store

Until = Callable[..., None]


def served(workshop: Workshop) -> Site:
    return Site(workshop.project, workshop.store, workshop.ledger, (live_package(workshop).id,) * 3)


@pytest.fixture(scope="module")
def rain(tmp_path_factory: pytest.TempPathFactory) -> Site:
    workshop = Workshop.open(write_records_project(tmp_path_factory.mktemp("rain"), count=800))
    build(workshop, None)
    return served(workshop)


@pytest.fixture
def rainy(rain: Site) -> Iterator[Running]:
    with running(rain, ("serve.alerts.drift=some",), "127.0.0.1") as server:
        yield server


def ask(server: Running, table: list[dict[str, Any]]) -> None:
    inputs = [{name: row[name] for name in ("pressure", "sky", "note")} for row in table]
    for first in range(0, len(inputs), 100):
        assert server.client.post("/v1/predict", json={"inputs": inputs[first : first + 100]}).status_code == 200


def drift(server: Running) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["what"], row["name"]): row for row in server.client.get("/v1/status").json()["drift"]}


def counted(server: Running, count: int) -> Callable[[], bool]:
    return lambda: drift(server).get(("input", "sky"), {}).get("count") == count


def test_records_like_those_of_training_raise_nothing(rainy: Running, until: Until) -> None:
    ask(rainy, rows(600, 77))
    until(counted(rainy, 600))
    found = drift(rainy)
    assert set(found) == {
        ("input", "pressure"), ("input", "sky"), ("input", "note"), ("input", "note length"), ("output", "rain"),
        ("output", "millimetres"),
    }
    assert {row["level"] for row in found.values()} == {"none"}
    assert found["input", "pressure"]["statistic"] == "ks"
    assert found["input", "sky"]["statistic"] == "psi"
    assert rainy.client.get("/v1/status").json()["alerts"] == []
    text = rainy.client.get("/metrics").text
    assert 'treadle_drift_level{name="sky",what="input"} 0.0' in text
    assert "treadle_drift_watched 1.0" in text


def test_records_of_another_kind_raise_an_alert_that_names_them(rainy: Running, until: Until) -> None:
    odd = rows(300, 78)
    for row in odd:
        row["pressure"] = float(row["pressure"] or 1013) + 15  # somewhat higher, none outside of what there was
        if row["sky"] == "blue":
            row["sky"], row["note"] = "black", str(row["note"]).replace("all clear", "clouds gather")
    ask(rainy, odd)
    until(counted(rainy, 300))
    found = drift(rainy)
    assert found["input", "pressure"]["level"] == found["input", "sky"]["level"] == "much"
    assert found["output", "rain"]["level"] in ("some", "much")  # it rains more often under a black sky
    assert found["input", "note length"]["level"] == "none"  # and nothing else changed
    names = lambda: {event["name"] for event in rainy.client.get("/v1/status").json()["alerts"]}  # noqa: E731
    until(lambda: {"drift of input pressure", "drift of input sky", "drift of output rain"} <= names())
    assert "drift of input note length" not in names()


def test_a_few_odd_records_raise_nothing_and_many_missing_values_do(rainy: Running, until: Until) -> None:
    odd = [row | {"pressure": "", "sky": "green"} for row in rows(100, 79)]
    ask(rainy, odd[:3])
    until(counted(rainy, 3))
    assert {row["level"] for row in drift(rainy).values()} == {"none"}
    ask(rainy, odd[3:])
    until(counted(rainy, 100))
    assert drift(rainy)["input", "pressure"]["level"] == drift(rainy)["input", "sky"]["level"] == "much"


def test_prompts_are_held_against_the_training_part(tmp_path: Path, until: Until) -> None:
    workshop = Workshop.open(write_project(tmp_path, "serve.slots=4"))
    build(workshop, None)
    source = Path(__import__("email.message", fromlist=["x"]).__file__).read_text()
    with running(served(workshop), (), "127.0.0.1") as server:

        def prompts(texts: list[str]) -> dict[str, Any]:
            before = drift(server).get(("input", "text"), {}).get("count", 0)
            for text in texts:
                body = {"model": "tiny", "prompt": text, "max_tokens": 1, "truncate_prompt_tokens": -1}
                assert server.client.post("/v1/completions", json=body).status_code == 200
            until(lambda: drift(server).get(("input", "text"), {}).get("count") == before + len(texts))
            return drift(server)["input", "text"]

        usual = prompts([source[at : at + 90] for at in range(0, 9000, 75)])
        assert usual["level"] == "none", usual
        odd = prompts(["这是一个完全不同的文本，" * 3] * 180)
        assert odd["level"] == "much", odd


def test_a_package_without_figures_is_said_and_served(serve: Callable[..., Running], until: Until, capfd: Any) -> None:
    server = serve()
    until(lambda: "no drift can be told" in capfd.readouterr().err)
    assert server.complete("x", max_tokens=1).status_code == 200
    assert server.client.get("/v1/status").json()["drift"] == []
    assert "treadle_drift_watched 0.0" in server.client.get("/metrics").text


def test_old_observations_are_forgotten_and_no_value_is_kept() -> None:
    reference = Reference.of(Seen("numbers", np.arange(100.0)))
    assert reference is not None
    window = Window(reference)
    for _ in range(BLOCKS * BLOCK):
        window.add(Seen("numbers", np.array([1e6])))
    assert (window.verdict(1).level, window.verdict(1).count) == ("much", BLOCKS * BLOCK)
    for number in range(BLOCKS * BLOCK):
        window.add(Seen("numbers", np.array([number % 100 + 0.5])))
    verdict = window.verdict(1)
    assert verdict.level == "none"
    assert (BLOCKS - 1) * BLOCK <= verdict.count <= BLOCKS * BLOCK
    kept = [value for block in window._blocks for value in vars(block).values()]
    assert all(np.size(value) <= len(reference.counts) for value in kept)


def written(version: Version, prompt: list[int], tokens: int) -> Asked:
    now = time.monotonic()
    return Asked("req-1", written=[Written("cmpl-1", version, prompt, 0, tokens, "stop", now, now, now, now)])


def test_lengths_are_held_against_a_versions_first_ones(tmp_path: Path) -> None:
    store, version = Store(tmp_path), Version(1, "package-00", 0)
    store.folder(version.package).mkdir(parents=True)
    usual = Reference.of(seen_tokens([[token % 7 + 1 for token in range(20)]] * 50))
    assert usual is not None
    save_references(store.folder(version.package), References({("input", "text"): usual}))
    drift, draw = Drift(store), np.random.default_rng(0)

    def answer(count: int, longest: int) -> dict[tuple[str, str], Any]:
        for number in range(count):
            drift.note(written(version, [1, 2, 3], int(draw.integers(1, longest))))
            if number % 100 == 99:
                drift.look(version)
        drift.look(version)
        return dict(drift.verdicts)

    drift.note(written(version, [0, 1, 0, 2, 3, 0], 5))
    drift.look(version)
    assert sum(drift._windows["input", "text"]._blocks[0].counts) == 3  # marks that stand around texts are none of theirs
    assert set(answer(400, 50)) == {("input", "text")}
    assert answer(400, 50)["output", "answer length"].level == "none"
    found = answer(1000, 200)
    assert found["output", "answer length"].level == "much"
    assert found["input", "prompt length"].level == "none"
    drift.look(Version(2, "package-00", 0))  # another version begins anew
    assert [found.count for _, found in drift.verdicts] == [0]
    drift.note(written(version, [1, 2, 3], 5))  # and does not count what an earlier one answered
    drift.look(Version(2, "package-00", 0))
    assert [found.count for _, found in drift.verdicts] == [0]


def test_more_requests_than_can_be_looked_at_are_left_out_and_wait_for_no_one(tmp_path: Path) -> None:
    store, version = Store(tmp_path), Version(1, "package-00", 0)
    store.folder(version.package).mkdir(parents=True)
    drift = Drift(store)
    for _ in range(10_000):
        drift.note(written(version, [1], 1))
    assert drift._asked.qsize() == 256
    drift.look(version)
    assert drift._asked.qsize() == 0


def test_a_damaged_file_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, version = Store(tmp_path), Version(1, "package-00", 0)
    store.folder(version.package).mkdir(parents=True)
    (store.folder(version.package) / FILE).write_text("{")
    drift = Drift(store)
    drift.look(version)
    assert "what is usual for version 1 cannot be read" in caplog.text
    assert not drift.watched
