"""Answers about records: the API, the file command, feedback and what it teaches."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from typer.testing import CliRunner

from tiny_records import rows, write_records_project, write_table
from treadle.cli import app
from treadle.core.errors import GateRefused
from treadle.core.project import load_project
from treadle.data.schema import Schema
from treadle.model.network import load_network
from treadle.pipeline import Workshop, build, improve, plan
from treadle.serve.api import make_app
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.predictor import Predictor, predict
from treadle.serve.server import configure, listen
from treadle.serve.version import Full, Retired, Version

ROW = {"pressure": 1013.0, "sky": "black", "note": "wind east clouds gather"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rain")
    workshop = Workshop.open(write_records_project(folder))
    assert build(workshop, plan(workshop)).version == 1
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    workshop = Workshop.open(load_project(folder))
    monitor = Monitor()
    live = LiveModel(workshop.store, workshop.ledger, workshop.project.spec.serve, monitor)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(make_app(workshop.project, workshop.ledger, live, monitor, "127.0.0.1")))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()
    live.close()


def package(folder: Path) -> Path:
    workshop = Workshop.open(load_project(folder))
    live = workshop.ledger.live()
    assert live is not None
    return workshop.store.open(live["package"]).path


def test_one_record_is_answered_by_every_head(client: httpx.Client):
    told = client.post("/v1/predict", json={"model": "rain", "inputs": ROW}).json()
    (prediction,) = told["predictions"]
    assert prediction["heads"]["rain"]["answer"] == "yes"
    assert sum(prediction["heads"]["rain"]["probabilities"].values()) == pytest.approx(1)
    assert prediction["heads"]["millimetres"]["answer"] > 1
    assert (told["version"], told["stored"], prediction["id"][:5]) == (1, False, "pred-")


def test_many_records_get_what_each_gets_alone(client: httpx.Client, folder: Path):
    table = [{key: row[key] for key in ROW} for row in rows(300, 7)]
    together = client.post("/v1/predict", json={"inputs": table}).json()["predictions"]
    network, schema = load_network(package(folder)), Schema.load(package(folder))
    for row, found in zip(table[::37], together[::37], strict=True):
        alone = predict(network, schema, [schema.parse(row, answers=False)])[0]
        assert found["heads"]["rain"]["answer"] == alone["rain"]["answer"]
        assert found["heads"]["millimetres"]["answer"] == pytest.approx(alone["millimetres"]["answer"], abs=1e-4)


@pytest.mark.parametrize(
    ("inputs", "field", "said"),
    [
        ({"sky": "blue", "note": ""}, "pressure", "is not there"),
        ({**ROW, "presure": 3}, "presure", "did you mean 'pressure'?"),
        ({**ROW, "pressure": "high"}, "pressure", "not a number ('high')"),
        ([ROW, {**ROW, "pressure": [1]}], "pressure", "of record 1"),
    ],
)
def test_a_wrong_column_is_named(client: httpx.Client, inputs: object, field: str, said: str):
    response = client.post("/v1/predict", json={"inputs": inputs})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == field
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"inputs": []}, {"inputs": 3}, {"inputs": ROW, "modle": "rain"}, {}])
def test_a_wrong_request_is_refused(client: httpx.Client, body: dict):
    assert client.post("/v1/predict", json=body).status_code == 400


def test_a_missing_value_may_be_missing(client: httpx.Client):
    response = client.post("/v1/predict", json={"inputs": {"pressure": None, "sky": "never seen", "note": None}})
    assert response.status_code == 200


def test_the_other_route_says_where_to_ask(client: httpx.Client):
    response = client.post("/v1/completions", json={"model": "rain", "prompt": "x"})
    assert response.status_code == 404
    assert "/v1/predict" in response.json()["error"]["message"]
    model = client.get("/v1/models").json()["data"][0]
    assert [part["column"] for part in model["inputs"]] == ["pressure", "sky", "note"]
    assert model["inputs"][1]["choices"] == sorted(model["inputs"][1]["choices"], key=model["inputs"][1]["choices"].index)
    assert [head["name"] for head in model["heads"]] == ["rain", "millimetres"]


def test_a_queue_that_is_full_says_when_to_ask_again(folder: Path):
    network, schema = load_network(package(folder)), Schema.load(package(folder))
    predictor = Predictor(network, schema, Version(1, "p", 0), 2)
    row = schema.parse(ROW, answers=False)
    hold = threading.Event()
    network.register_forward_pre_hook(lambda *_: hold.wait(30) and None)
    first = predictor.submit([row])
    try:
        while predictor.active == 0:
            pass
        waiting = [predictor.submit([row]), predictor.submit([row, row])]
        with pytest.raises(Full):
            predictor.submit([row])
        predictor.retire()
        with pytest.raises(Retired):
            predictor.submit([row])
    finally:
        hold.set()
    assert [len(future.result(30)) for future in (first, *waiting)] == [1, 1, 2]
    predictor.stop()
    assert predictor.done


def test_a_table_is_answered_row_by_row(folder: Path, tmp_path: Path):
    table = [{key: row[key] for key in ROW} for row in rows(20, 3)]
    table[4]["pressure"] = "high"
    write_table(tmp_path / "new.csv", table)
    outcome = CliRunner().invoke(app, ["predict", str(tmp_path / "new.csv"), "-f", str(folder), "--json"])
    assert outcome.exit_code == 0, outcome.output
    with (tmp_path / "new.predictions.csv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [row["sky"] for row in found] == [row["sky"] for row in table]
    assert [number for number, row in enumerate(found) if row["problem"]] == [4]
    assert found[4]["problem"] == "not a number: pressure: 'high'"
    network, schema = load_network(package(folder)), Schema.load(package(folder))
    alone = predict(network, schema, [schema.parse({**table[0], "pressure": table[0]["pressure"] or None}, answers=False)])[0]
    assert found[0]["rain.answer"] == alone["rain"]["answer"]
    assert float(found[0]["millimetres.answer"]) == pytest.approx(alone["millimetres"]["answer"], abs=1e-4)


def test_a_table_without_a_column_is_refused(folder: Path, tmp_path: Path):
    write_table(tmp_path / "new.csv", [{"pressure": 1000, "sky": "blue"}])
    outcome = CliRunner().invoke(app, ["predict", str(tmp_path / "new.csv"), "-f", str(folder)])
    assert outcome.exit_code == 2
    assert "has no column 'note'" in outcome.output


def test_feedback_needs_consent_and_known_heads(client: httpx.Client):
    told = client.post("/v1/predict", json={"inputs": ROW}).json()["predictions"][0]
    refused = client.post("/v1/feedback", json={"answer_id": told["id"], "edited": {"rain": "no"}})
    assert refused.status_code == 409
    told = client.post("/v1/predict", json={"inputs": ROW, "store": True}).json()["predictions"][0]
    for edited in ("no", {"snow": "no"}):
        refused = client.post("/v1/feedback", json={"answer_id": told["id"], "edited": edited})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "edited")
    right = {"answer_id": told["id"], "edited": {"rain": "no", "millimetres": 0}}
    assert client.post("/v1/feedback", json=right).status_code == 200


def test_feedback_becomes_a_better_version(tmp_path: Path):
    """Users say what falls from a sky that the training data did not know."""
    project = write_records_project(tmp_path / "p", "improve.budget=120 steps", "improve.learning_rate=0.01")
    workshop = Workshop.open(project)
    build(workshop, plan(workshop))
    live = workshop.ledger.live()
    assert live is not None
    for number, row in enumerate(rows(120, 11)):
        prompt = json.dumps({"pressure": 1020.0 + number / 10, "sky": "green", "note": row["note"]})
        workshop.ledger.record_answer(
            id=f"pred-{number}", version=1, package=live["package"], stored=True, prompt=prompt,
            text=json.dumps({"rain": "no", "millimetres": 0.0}), settings={"kind": "prediction"}, prompt_tokens=0, answer_tokens=0,
            seconds=0.1, finish_reason="stop",
        )
        workshop.ledger.record_feedback(f"pred-{number}", None, json.dumps({"rain": "yes", "millimetres": 5.0}))
    try:
        outcome = improve(workshop)
    except GateRefused as error:
        pytest.fail(str(error))
    assert outcome.version == 2
    assert outcome.account == {"in": 120, "kept": 120, "set_aside": {}}
    after = workshop.ledger.live()
    assert after is not None
    green = {"pressure": 1025.0, "sky": "green", "note": "calm warm all clear"}
    answers = []
    for id in (live["package"], after["package"]):
        path = workshop.store.open(id).path
        schema = Schema.load(path)
        answers.append(predict(load_network(path), schema, [schema.parse(green, answers=False)])[0]["rain"]["answer"])
    assert answers == ["no", "yes"]


def test_batches_are_the_same_whatever_their_size(folder: Path):
    network, schema = load_network(package(folder)), Schema.load(package(folder))
    plain = [schema.parse({key: row[key] for key in ROW}, answers=False) for row in rows(10, 5) if row["pressure"] != ""]
    whole = predict(network, schema, plain)
    apart = [predict(network, schema, [row])[0] for row in plain]
    numbers = np.array([[p["millimetres"]["answer"] for p in part] for part in (whole, apart)])
    np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-4)
    assert torch.is_grad_enabled()
