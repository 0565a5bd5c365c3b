"""Request ids, and the log as lines of JSON: who asked, how it went, and nothing of what was said."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import Running

from treadle.core.errors import WorkError
from treadle.core.progress import say
from treadle.serve.asked import Asked
from treadle.serve.journal import Journal

Serve = Callable[..., Running]
Lines = Callable[[], list[dict[str, Any]]]
SECRET_PROMPT, SECRET_ANSWER = "the launch code is 4711", "Kennwort"


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    """All lines on standard error so far, each of which must be JSON."""
    seen: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        seen.extend(json.loads(line) for line in capfd.readouterr().err.splitlines())
        return seen

    return read


def requests(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines() if line["message"] == "request"]


def test_a_line_says_who_asked_and_how_it_went_and_nothing_of_the_text(
    serve: Serve, site: Any, lines: Lines, until: Callable[..., None]
) -> None:
    secret = site.ledger.add_key("web", ["answer", "feedback"])
    running = serve("serve.log=json", host="0.0.0.0")
    headers = {"authorization": f"Bearer {secret}", "x-request-id": "my-Request_1"}
    body = {"model": "tiny", "prompt": SECRET_PROMPT, "max_tokens": 5, "temperature": 0, "store": True}
    response = running.client.post("/v1/completions", json=body, headers=headers)
    assert response.headers["x-request-id"] == "my-Request_1"
    answer = response.json()
    said = {"answer_id": answer["id"], "edited": SECRET_ANSWER}
    assert running.client.post("/v1/feedback", json=said, headers=headers).status_code == 200
    assert running.client.get("/nowhere/" + SECRET_ANSWER, headers=headers).status_code == 404
    assert running.client.post("/v1/completions", json=body | {"prompt": 3}, headers=headers).status_code == 400
    until(lambda: len(requests(lines)) == 4)
    first, feedback, nowhere, wrong = requests(lines)
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert 0 < first.pop("seconds") < 30
    assert first == {
        "level": "info", "message": "request", "request": "my-Request_1", "method": "POST", "route": "/v1/completions",
        "status": 200, "version": 1, "key": "web", "prompt_tokens": answer["usage"]["prompt_tokens"], "answer_tokens": 5, "records":
        0, "finish_reasons": ["length"],
    }
    assert (feedback["route"], feedback["status"], feedback["version"]) == ("/v1/feedback", 200, None)
    assert (nowhere["route"], nowhere["status"], nowhere["key"]) == ("other", 404, "web")
    assert (wrong["status"], wrong["version"]) == (400, None)
    everything = json.dumps(lines())
    text = answer["choices"][0]["text"].strip()
    for hidden in (SECRET_PROMPT, SECRET_ANSWER, secret, "127.0.0.1", "nowhere", answer["id"], *([text] if len(text) > 3 else [])):
        assert hidden not in everything, hidden


def test_a_stream_has_one_line_with_its_whole_time(serve: Serve, lines: Lines, until: Callable[..., None]) -> None:
    running = serve("serve.log=json")
    body = {"model": "tiny", "prompt": "x", "max_tokens": 40, "temperature": 0, "stream": True, "n": 2}
    with running.client.stream("POST", "/v1/completions", json=body) as stream:
        given_ = stream.headers["x-request-id"]
        for _ in stream.iter_lines():
            pass
    until(lambda: requests(lines))
    (line,) = requests(lines)
    assert line["request"] == given_
    assert (line["answer_tokens"], line["finish_reasons"]) == (80, ["length", "length"])
    assert line["seconds"] > running.client.get("/v1/status").json()["latency"]["first_token"]["p50"]


def test_records_are_counted_and_what_a_client_breaks_off_is_told(serve: Serve, lines: Lines, until: Callable[..., None]) -> None:
    running = serve("serve.log=json", "serve.slots=1")
    with httpx.Client(base_url=running.url) as client:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": True}
        with client.stream("POST", "/v1/completions", json=body):
            until(lambda: running.live.worker.active)
    until(lambda: requests(lines))
    (line,) = requests(lines)
    assert line["finish_reasons"] == ["cancelled"]


def test_errors_are_lines_with_the_request_and_without_their_text(
    serve: Serve, lines: Lines, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve("serve.log=json")

    def broken(*_: Any) -> None:
        raise ValueError(SECRET_PROMPT)

    monkeypatch.setattr("treadle.serve.completions.Desk.complete", broken)
    response = running.complete(SECRET_PROMPT)
    id = response.headers["x-request-id"]
    assert response.status_code == 500
    assert response.json()["error"]["message"].endswith(f"this request is {id})")
    until(lambda: requests(lines))
    (error,) = [line for line in lines() if line["level"] == "error"]
    assert (error["request"], error["error"], error["logger"]) == (id, "ValueError", "treadle.serve")
    assert any("test_journal.py" in place for place in error["where"])
    assert requests(lines)[0]["status"] == 500
    assert SECRET_PROMPT not in json.dumps(lines())


def test_a_ledger_that_cannot_be_read_names_the_request(serve: Serve, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve("serve.log=json")

    def gone(*_: Any) -> None:
        raise WorkError("the ledger is gone")

    monkeypatch.setattr(running.site.ledger, "said", gone)
    response = running.client.get("/v1/status")
    assert response.status_code == 500
    id = response.headers["x-request-id"]
    assert id in response.json()["error"]["message"]
    (error,) = [line for line in lines() if line["level"] == "error"]
    assert error["request"] == id
    assert "the ledger is gone" in error["message"]


def test_what_the_server_says_is_a_line_too(serve: Serve, site: Any, lines: Lines, until: Callable[..., None]) -> None:
    running = serve("serve.log=json")
    site.ledger.promote(site.packages[1], "better")
    until(lambda: running.live.version.number == 2)
    until(lambda: any(line["message"].startswith("Version 2 is live") for line in lines()))
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = [line for line in lines() if line["logger" if "logger" in line else "level"] == "uvicorn.error"]
    assert (line["level"], "request" in line) == ("warning", False)


def test_words_come_back_when_it_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    journal = Journal()
    say("one")
    journal.close()
    journal.close()
    say("two")
    first, second = capfd.readouterr().err.splitlines()
    assert json.loads(first)["message"] == "one"
    assert second == "two"
    assert journal not in logging.getLogger("treadle.serve").handlers


def test_without_it_no_request_is_logged(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    running = serve()
    assert running.complete(SECRET_PROMPT, max_tokens=2).status_code == 200
    err = capfd.readouterr().err
    assert "completions" not in err
    assert SECRET_PROMPT not in err


@given(st.text(max_size=80))
def test_only_a_sane_id_is_taken_over(sent: str) -> None:
    raw = [(b"x-request-id", sent.encode("utf-8", "surrogatepass"))]
    found = Asked.of({"type": "http", "method": "GET", "headers": raw}).id
    sane = 1 <= len(sent) <= 64 and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in sent)
    assert (found == sent) == sane
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found)


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/metrics", "/v1/models"])
def test_every_response_has_an_id_of_its_own(shared: Running, path: str) -> None:
    one, other = (shared.client.get(path, headers={"x-request-id": "not sane!"}) for _ in range(2))
    assert one.status_code == (404 if path == "/nowhere" else 200)
    ids = [response.headers.get_list("x-request-id") for response in (one, other)]
    assert all(len(given_) == 1 and given_[0].startswith("req-") for given_ in ids)
    assert ids[0] != ids[1]


def test_also_what_is_refused_before_it_is_a_request(shared: Running) -> None:
    elsewhere, other = b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n", b"PATCH /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for sent in (b"NONSENSE\r\n\r\n", elsewhere, other):
        with socket.create_connection(("127.0.0.1", int(shared.url.rpartition(":")[2]))) as connection:
            connection.sendall(sent)
            head = connection.recv(65536).partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"x-request-id: req-") == 1, head


def test_lines_are_whole_with_any_text(capfd: pytest.CaptureFixture[str]) -> None:
    journal = Journal()
    try:
        logging.getLogger("treadle.serve").error("a key %r\nand “quotes” \x00 \u2028", 'x"y')
        print("plain", file=sys.stderr)
    finally:
        journal.close()
    first, second = capfd.readouterr().err.split("\n")[:2]
    assert json.loads(first)["message"] == "a key 'x\"y'\nand “quotes” \x00 \u2028"
    assert second == "plain"
