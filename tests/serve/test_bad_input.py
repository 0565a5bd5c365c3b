"""What no client should send, over a real socket: each is refused in the usual shape, quickly, and the server goes on."""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from every_input import png, wave
from shops import row, shop_site
from sites import Running, copied, running

from treadle.store.ledger import Ledger

JSON = {"content-type": "application/json"}
POSTS = ("/v1/completions", "/v1/chat/completions", "/v1/predict", "/v1/embeddings", "/v1/feedback")
DEEP = 100_000
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "-1e308", "5e-324", "9" * 4000, "-" + "9" * 400, "1" * 5000)
WORDS = ("", " ", "\0", "nan", "inf", "1e999", "9" * 5000, "1_000", "0000-00-00", "99999-01-01", "2026-13-45", "x" * 15_000, "[",
         "{}", "\u202e\ufeff", "\U0001f600" * 500, "'; DROP TABLE answers; --", "T", "٣", "12:61", "1" * 30, "-1", "[[1]]",
         '{"item": 1}')
ODD = (
    [], {}, [[]], [None], [{}], {"bytes": 5}, {"bytes": "!"}, True, [[["a"]]], {"item": "a", "time": []},
     [{"item": "a", "time": []}],
    [{"item": "a", "time": 10**400}], [{"item": "a", "time": 1e300}], ["a", {"item": "b"}], [10**400], {"item": {"item": "a"}},
)
COLUMNS = (
    "price", "colour", "sold", "day", "words", "past", "note",  # of the shop
    "pressure", "photo", "sound",  # of the sky
)


@pytest.fixture(scope="module")
def roomy(template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that takes bodies as large as where nothing is set."""
    with copied(template, tmp_path_factory.mktemp("roomy") / "project") as site, \
            running(site, ("serve.max_body=1 MB",), "127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with shop_site(tmp_path_factory.mktemp("shop")) as site, running(site, (), "127.0.0.1") as server:
        yield server


def refused(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, (response.status_code, response.text[:500])
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 700
    assert "Traceback" not in error["message"]
    return error


def post(server: Any, path: str, content: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    response: httpx.Response = server.client.post(path, content=content, headers={**JSON, **(headers or {})}, timeout=30)
    return response


def asked(value: str, field: str = "temperature") -> bytes:
    return f'{{"model": "tiny", "prompt": "x", "max_tokens": 1, "{field}": {value}}}'.encode()


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
def test_ten_megabytes_are_refused_with_and_without_their_length(roomy: Any, path: str) -> None:
    big = b'{"model": "tiny", "prompt": "' + b"x" * 10_000_000 + b'"}'
    for content in (big, iter([big[place : place + 65_536] for place in range(0, len(big), 65_536)])):
        assert refused(post(roomy, path, content), 413)["code"] == "body_too_large"
    assert roomy.complete("x", max_tokens=1).status_code == 200


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content",
    [b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP,
     b'{"model": "tiny", "prompt": "x", "inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", b'{"model": "' + b"\\" * 400_000,
     b'{"model": "tiny", "prompt": "\xff\xfe"}', b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
     b'{"model": "tiny", "prompt": "\xc0\xaf"}', b'{"model": "tiny", "prompt": "\\ud800"}',
     '{"model": "tiny", "prompt": "x"}'.encode("utf-16"), b"\xef\xbb\xbf{}", b"\0", b"{}{}",
     gzip.compress(b'{"model": "tiny", "prompt": "x"}'), b'{"model": "tiny", "prompt": "x"', b"'model'", b'{"model": "tiny",}'],
    ids=["lists", "objects", "within", "slashes", "bytes", "surrogate", "overlong", "escape", "utf-16", "mark", "nul", "two",
         "gzip", "open", "quotes", "comma"],
)
def test_what_is_no_json_is_400_on_every_route(roomy: Any, path: str, content: bytes) -> None:
    start = time.monotonic()
    assert "JSON" in refused(post(roomy, path, content), 400)["message"]
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("field", ["temperature", "top_p", "max_tokens", "seed", "n", "logprobs", "presence_penalty"])
def test_numbers_that_are_none_are_400(roomy: Any, field: str) -> None:
    for value in NUMBERS:
        if value != "5e-324" or field not in ("temperature", "presence_penalty", "top_p"):  # of which it is one
            refused(post(roomy, "/v1/completions", asked(value, field)), 400)
    refused(post(roomy, "/v1/completions", asked('{"5": NaN}', "logit_bias")), 400)


@pytest.mark.parametrize(
    "form",
    [{"json": {"$ref": "#"}}, {"json": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}},
     {"json": {"type": "string", "pattern": "(" * 500}}, {"regex": "(a{1000}){1000}{1000}"},
     {"regex": "(" * 5000}, {"regex": "(?<!a)b"},
     {"json": {"minLength": 10**9, "type": "string"}}, {"json": {"enum": []}}, {"choice": [""]}, {"choice": ["\0"]},
     {"regex": "\0"}],
    ids=str,
)
def test_forms_that_go_wrong_break_nothing(roomy: Any, form: dict[str, Any]) -> None:
    start = time.monotonic()
    response = roomy.complete("x", max_tokens=4, structured_outputs=form)
    assert response.status_code in (200, 400, 500), response.text
    if response.status_code == 500:  # the form grew too large while the answer was written: it alone fails
        assert response.json()["error"]["message"].startswith("the model failed at this answer")
    assert time.monotonic() - start < 20
    assert roomy.complete("x", max_tokens=1).status_code == 200


def test_a_schema_within_a_schema_a_hundred_deep(roomy: Any) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(90):
        schema = {"type": "object", "properties": {"a": schema}}
    assert roomy.complete("x", max_tokens=2, structured_outputs={"json": schema}).status_code in (200, 400)


def test_unknown_fields_are_named_on_every_route(roomy: Any) -> None:
    for path in POSTS:
        error = refused(post(roomy, path, b'{"__proto__": 1, "constructor": 2, "x\\r\\ny": 3}'), 400)
        assert "\r" not in json.dumps(error)


# -- columns ----------------------------------------------------------------------------------------------------------


def record() -> dict[str, Any]:
    return {"pressure": 1000, "sky": "grey", "place": None, "dry": True, "day": "2026-01-31", "note": "clouds",
            "photo": base64.b64encode(png(9)).decode(), "sound": base64.b64encode(wave(440)).decode()}


@pytest.mark.parametrize("column", COLUMNS)
def test_no_value_of_a_column_breaks_the_server(sky: Any, shop: Any, column: str) -> None:
    server, whole = (sky, record()) if column in record() else (shop, asked_row())
    plain = {name: json.dumps(value) for name, value in whole.items()}
    for value in (*NUMBERS, *map(json.dumps, WORDS), *map(json.dumps, ODD)):
        content = "{" + ", ".join(f'"{name}": {value if name == column else text}' for name, text in plain.items()) + "}"
        response = post(server, "/v1/predict", f'{{"inputs": {content}, "store": true}}')
        assert response.status_code in (200, 400, 422), (value[:100], response.status_code, response.text[:300])
        if response.status_code == 200:
            json.loads(response.text, parse_constant=pytest.fail)  # strict JSON: no NaN
        else:
            refused(response, 400, 422)


def asked_row() -> dict[str, Any]:
    return {name: value for name, value in row(random.Random(3)).items() if name in COLUMNS}


def test_pictures_that_are_bombs_are_422(sky: Any) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000)) + chunk(b"IEND", b"")
    for photo in (bomb, b"\x89PNG\r\n\x1a\n", png(3)[:200], b"GIF89a" + b"\xff" * 50, b"<svg onload='alert(1)'/>"):
        response = post(sky, "/v1/predict", json.dumps({"inputs": {**record(), "photo": base64.b64encode(photo).decode()}}))
        assert response.status_code in (200, 422), response.text
    refused(post(sky, "/v1/predict", json.dumps({"inputs": {**record(), "photo": base64.b64encode(bomb).decode()}})), 422)


# -- connections ------------------------------------------------------------------------------------------------------


def exchange(server: Any, data: bytes) -> bytes:
    """All that the server says to ``data`` until it closes, or falls silent for a second."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=1) as connection:
        connection.sendall(data)
        found = b""
        try:
            while part := connection.recv(65_536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
    return found


SMUGGLED = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [b"content-length: 4\r\ntransfer-encoding: chunked", b"transfer-encoding: chunked\r\ncontent-length: 4",
     b"content-length: 4\r\ncontent-length: 5", b"content-length: 4, 5", b"content-length: +4", b"content-length: -1",
     b"content-length: 0x4", b"content-length: 4\r\ntransfer-encoding: xchunked", b"transfer-encoding: chunked, identity",
     b"transfer-encoding: chunked\r\ntransfer-encoding: identity", b"transfer-encoding : chunked",
     b"transfer-encoding:\x0bchunked",
     b"content-length : 4", b"content-length: 99999999999999999999999", b"transfer-encoding: gzip, chunked",
     b"content-length: 4\r\nTransfer-Encoding:\tchunked"],
)
@pytest.mark.parametrize("method", [b"POST /v1/completions", b"GET /healthz"])
def test_no_request_is_smuggled_behind_another(shared: Any, framing: bytes, method: bytes) -> None:
    head = method + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" + framing + b"\r\n\r\n"
    answer = exchange(shared, head + b"0\r\n\r\n" + SMUGGLED)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer[:2000]
    assert b"treadle_requests" not in answer
    if answer:
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
        assert b"connection: close" in answer.lower()
    assert shared.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/%00", "/page/%00", "/%ff%fe", "/v1/models%00", "/page/app.js%0d%0a", "//", "///v1/models", "/v1//models",
     "/v1/models/", "/./v1/models",
     "/v1/../v1/models", "/%2e%2e/%2e%2e/etc/passwd", "/page/vendor/%2e%2e/%2e%2e/api.py", "/v1/models;x=1", "*",
     "/" + "a" * 30_000, "/" + "%41" * 10_000, "/?" + "a=1&" * 5000,
     "/v1/completions/..;/metrics",
     "/\\..\\..\\etc\\passwd", "/<script>alert(1)</script>"],
    ids=lambda path: path[:30],
)
def test_paths_that_play_tricks_lead_nowhere(shared: Any, path: str) -> None:
    answer = exchange(shared, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    found = int(answer.split()[1])
    assert found == (200 if path.startswith("/?") else 404), answer[:300]
    start, _, body = answer.partition(b"\r\n\r\n")
    assert b"location:" not in start.lower()
    if found == 404:
        assert len(body) < 1000
        assert b"content-type: application/json" in start
        assert b"nosniff" in start


@pytest.mark.parametrize(
    "data",
    [b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
     b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example.com\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"FOO\r\n\r\n",
     b"\r\n" * 50_000,
     b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 200_000 + b"\r\n", b"GET\0/ HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nhost: localhost\r\n: x\r\n\r\n"],
    ids=["bytes", "http2", "two hosts", "no host", "word", "lines", "many headers", "nul", "no name"],
)
def test_odd_heads_are_refused(shared: Any, data: bytes) -> None:
    answer = exchange(shared, data)
    assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 421")), answer[:300]
    assert b"Traceback" not in answer
    assert shared.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("method", ["FOO", "TRACE", "OPTIONS", "PUT", "DELETE", "HEAD", "PATCH", "get"])
def test_other_methods_are_refused(shared: Any, method: str) -> None:
    answer = exchange(shared, f"{method} /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400" if method in ("FOO", "get") else b"HTTP/1.1 405"), answer[:300]  # 400: no HTTP


@pytest.mark.parametrize("text", ["x\r\nset-cookie: a=1", "x\nset-cookie: a=1", "x\r\n\r\n<script>alert(1)</script>", "\0"])
def test_nothing_that_is_told_again_becomes_a_header(shared: Any, text: str) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"model": text, "prompt": "x"}), ("/v1/completions", {"model": "tiny", "prompt": "x", text: 1}),
        ("/v1/completions", {"model": "tiny", "prompt": text, "max_tokens": 1, "user": text, "stop": text, "store": True}),
        ("/v1/feedback", {"answer_id": text, "rating": "up"}), ("/v1/predict", {"inputs": {text: text}}),
    ]
    for path, body in bodies:
        response = post(shared, path, json.dumps(body))
        assert response.status_code in (200, 400, 404, 422)
        assert "set-cookie" not in response.headers
        assert set(response.headers) <= {
            "content-length",
            "content-type", "date", "x-request-id", "x-treadle-version", "cache-control", "x-content-type-options",
            "referrer-policy", "cross-origin-resource-policy", "content-security-policy",
        }


def test_an_answer_id_that_no_database_holds_is_404(site: Any, postgres: str) -> None:
    with running(site, (f"ledger={postgres}",), "127.0.0.1") as server:
        ledger = Ledger(Path(site.project.store), postgres)
        try:
            assert ledger.answer("a\0b") is None
        finally:
            ledger.close()
        refused(post(server, "/v1/feedback", json.dumps({"answer_id": "a\0b", "rating": "up"})), 404)
