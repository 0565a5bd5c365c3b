"""Real sockets: who trickles, stalls or leaves by half is cut off; what is no HTTP is refused; nothing slips into a header."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from treadle.serve.connection import Deadline
from treadle.serve.server import configure, listen
from treadle.spec.access import Timeouts
from treadle.spec.stages import Serve

Start = Callable[..., Any]
BODY = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode()
PATIENT = ("serve.timeouts.headers=1 s", "serve.timeouts.body=1 s", "serve.timeouts.reading=1 s")


def head(method: str, path: str, *more: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *more, "", ""]).encode("latin-1")


def posted(length: int, *more: str) -> bytes:
    return head("POST", "/v1/completions", "content-type: application/json", f"content-length: {length}", *more)


@pytest.fixture
def connect() -> Iterator[Callable[[Any], socket.socket]]:
    opened: list[socket.socket] = []

    def open_it(running: Any) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20))
        return opened[-1]

    yield open_it
    for each in opened:
        each.close()


@contextlib.contextmanager
def served(app: Any, timeouts: Timeouts, small: bool = False) -> Iterator[tuple[Any, uvicorn.Server]]:
    """``app`` behind the server's connections; ``small``: a socket that holds little of an answer."""
    listener = listen("127.0.0.1", 0)
    if small:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = uvicorn.Server(configure(app, Serve(timeouts=timeouts)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname(), server
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def trickle(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """Send a byte every 0.1 s until the server closes; gives what it said, and after how many seconds."""
    start, found = time.monotonic(), b""
    connection.settimeout(0.1)
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            break
        found += part
        if not part:
            break
    else:
        pytest.fail(f"the server listened to the end; it said {found!r}")
    return found, time.monotonic() - start


def refusal(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of a whole response, which must close the connection and say what all do."""
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = start.decode().lower().split("\r\n")
    assert {"connection: close", "x-content-type-options: nosniff", "referrer-policy: no-referrer"} <= set(lines)
    return int(lines[0].split()[1]), json.loads(body)["error"]


def test_headers_that_trickle_are_cut_off(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    running = serve(*PATIENT)
    answer, seconds = trickle(connect(running), head("GET", "/healthz", f"x-slow: {'a' * 300}"))
    status, error = refusal(answer)
    assert (status, error["code"]) == (408, "timeout")
    assert "headers did not come within 1 s" in error["message"]
    assert 0.9 < seconds < 8


@pytest.mark.parametrize("body", [b"", b"xx"])
def test_a_connection_is_kept_for_a_while_and_then_closed_without_a_word(until: Callable[..., None], body: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    asked = head("GET", "/", f"content-length: {len(body)}")  # whose body the answer does not wait for
    with served(app, Timeouts(headers=0.2, idle=1.0)) as (address, server), socket.create_connection(address) as client:
        for _ in range(2):
            client.sendall(asked)
            found = client.recv(1000)
            client.sendall(body)
            time.sleep(0.6)  # longer than headers may take, once they have begun
            assert found.endswith(b"ok")
        start = time.monotonic()
        assert client.recv(1000) == b""
        assert time.monotonic() - start < 5
        until(lambda: not server.server_state.connections)


def test_headers_that_trickle_in_a_second_request_are_cut_off(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    connection = connect(serve(*PATIENT))
    connection.sendall(head("GET", "/healthz"))
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    answer, _ = trickle(connection, head("GET", "/healthz", f"x-slow: {'a' * 300}"))
    assert refusal(answer)[0] == 408


def test_a_connection_that_asks_nothing_is_closed_without_a_word(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    assert rest(connect(serve(*PATIENT))) == b""


@pytest.mark.parametrize("framing", ["content-length: 400", "transfer-encoding: chunked"])
def test_a_body_that_trickles_is_cut_off(serve: Start, connect: Callable[[Any], socket.socket], framing: str) -> None:
    connection = connect(serve(*PATIENT))
    connection.sendall(head("POST", "/v1/completions", "content-type: application/json", framing))
    data = BODY + b" " * 400 if "length" in framing else b"".join(b"1\r\n%c\r\n" % byte for byte in BODY * 5)
    answer, seconds = trickle(connection, data)
    status, error = refusal(answer)
    assert (status, error["code"]) == (408, "timeout")
    assert "body did not come within 1 s" in error["message"]
    assert 0.9 < seconds < 8


def test_a_body_that_no_route_reads_is_cut_off(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    connection = connect(serve(*PATIENT))
    connection.sendall(head("GET", "/healthz", "content-length: 400"))
    answer, seconds = trickle(connection, b" " * 400)
    assert answer.startswith(b"HTTP/1.1 200")
    assert seconds < 10


def test_a_slow_body_within_its_time_is_answered(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    connection = connect(serve("serve.timeouts.headers=0.2 s", "serve.timeouts.body=15 s"))
    connection.sendall(posted(len(BODY), "connection: close"))
    for byte in BODY:
        connection.sendall(bytes([byte]))
        time.sleep(0.01)
    assert rest(connection).startswith(b"HTTP/1.1 200")


def test_who_takes_nothing_of_the_answers_is_cut_off(
    serve: Start, connect: Callable[[Any], socket.socket], until: Callable[..., None]
) -> None:
    running = serve(*PATIENT)
    connection = connect(running)
    connection.setblocking(False)
    request, sent = head("GET", "/page/app.js") * 4000, 0

    def cut_off() -> bool:
        nonlocal sent
        try:
            sent += connection.send(request[sent : sent + 65536] or b"x")
        except BlockingIOError:
            return False
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    until(cut_off)
    assert running.client.get("/healthz").status_code == 200


def test_a_client_that_leaves_by_half_frees_its_slot(
    serve: Start, connect: Callable[[Any], socket.socket], until: Callable[..., None], site: Any
) -> None:
    running = serve("serve.slots=1", "serve.queue=0")
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": True}).encode()
    connection = connect(running)
    connection.sendall(posted(len(body)) + body)
    until(lambda: running.live.worker.active)
    connection.shutdown(socket.SHUT_WR)
    until(lambda: running.complete("x", max_tokens=1).status_code == 200, seconds=10)
    until(lambda: site.ledger.totals()["answers"] == 2)
    assert 'treadle_answers_total{finish_reason="cancelled",key="none",version="1"} 1.0' in running.client.get("/metrics").text


def test_who_leaves_by_half_with_an_answer_unread_is_gone_at_once_and_cut_off(until: Callable[..., None]) -> None:
    gone = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 60_000, "more_body": True})  # more than the sockets hold
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with served(app, Timeouts(reading=5.0), small=True) as (address, server), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(head("GET", "/"))
        client.shutdown(socket.SHUT_WR)
        until(gone.is_set, seconds=4)
        until(lambda: not server.server_state.connections)


def test_a_body_that_breaks_off_is_not_answered(
    serve: Start, connect: Callable[[Any], socket.socket], until: Callable[..., None], site: Any
) -> None:
    running = serve()
    connection = connect(running)
    connection.sendall(posted(len(BODY) + 1) + BODY)  # what came is whole JSON, yet not the whole body
    connection.shutdown(socket.SHUT_WR)
    until(lambda: 'status="400"' in running.client.get("/metrics").text)
    assert site.ledger.totals()["answers"] == 0


@pytest.mark.parametrize(
    "data",
    [b"what is this\r\n\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000,
     b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
     b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n",
     b"GET / HTTP/1.1\r\nhost: localhost\r\nbad\x00header: 1\r\n\r\n",
     b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 40 + b"\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n",
     b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"],
    ids=["words", "many headers", "length and chunks", "no size of a chunk", "a NUL", "TLS", "too long", "two lengths"],
)
def test_what_is_no_http_is_refused_in_the_usual_shape(shared: Any, connect: Callable[[Any], socket.socket], data: bytes) -> None:
    connection = connect(shared)
    connection.sendall(data)
    status, error = refusal(rest(connection))
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_requests_at_once_are_answered_one_after_the_other(shared: Any, connect: Callable[[Any], socket.socket]) -> None:
    connection = connect(shared)
    connection.sendall(head("GET", "/healthz") + posted(len(BODY)) + BODY + head("GET", "/nowhere", "connection: close"))
    answer = rest(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200", b"404"]


def test_an_answer_that_takes_longer_than_headers_may_is_given_whole() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6 if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with served(app, Timeouts(headers=0.2, body=0.2)) as (address, _), socket.create_connection(address) as client:
        client.sendall(head("GET", "/") + head("GET", "/slow") + head("GET", "/slow") + head("GET", "/", "connection: close"))
        assert rest(client).count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize("leave", ["close", "half"])
def test_who_asks_twice_at_once_and_leaves_is_gone_for_the_first_too(until: Callable[..., None], leave: str) -> None:
    began, gone = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            began.set()
        gone.set()

    with served(app, Timeouts()) as (address, _), socket.create_connection(address) as client:
        client.sendall(head("GET", "/") * 2)
        until(began.is_set)
        if leave == "close":
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        until(gone.is_set, seconds=5)


def test_what_is_no_http_behind_a_request_breaks_no_answer_in_two(serve: Start, connect: Callable[[Any], socket.socket]) -> None:
    connection = connect(serve())
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 200, "stream": True}).encode()
    connection.sendall(posted(len(body)) + body)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.sendall(b"what is this\r\n\r\n")
    assert b"HTTP/1.1" not in rest(connection)


@pytest.mark.parametrize(
    "path",
    ["/page/../../../../etc/passwd", "/page/..%2f..%2f..%2fetc%2fpasswd",
     "/page/%2e%2e/%2e%2e/treadle.yaml", "/page//etc/passwd",
     "/page/....//app.js", "/page/app.js%00.html",
     "/page/vendor/..%5c..%5caccess.py", "//etc/passwd", "/..;/etc/passwd", "/page/app.js/"],
)
def test_no_path_leads_out_of_the_page(shared: Any, connect: Callable[[Any], socket.socket], path: str) -> None:
    connection = connect(shared)
    connection.sendall(head("GET", path, "connection: close"))
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"location:" not in answer.lower()
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "path",
    ["/%0d%0ax-evil:%201", "/page/%0d%0ax-evil:%201/", "/?%0d%0ax-evil:%201", "/v1/models/%0D%0AX-Evil:%201%0D%0A%0D%0A<script>"],
)
def test_nothing_of_the_path_becomes_a_header(shared: Any, connect: Callable[[Any], socket.socket], path: str) -> None:
    connection = connect(shared)
    connection.sendall(head("GET", path, "connection: close", "x-forwarded-host: evil.example.com", "origin: https://evil.example.com"))
    start, _, _ = rest(connection).partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in start.split(b"\r\n")[1:]]
    assert not {b"x-evil", b"location", b"set-cookie"} & set(names)
    assert not [name for name in names if name.startswith(b"access-control")]


def test_a_deadline_is_moved_both_ways_and_taken_back() -> None:
    async def ring() -> list[str]:
        rung = list[str]()
        one, other, none = (Deadline(asyncio.get_running_loop()) for _ in range(3))
        one.set(0.05, lambda: rung.append("too early"))
        one.set(0.3, lambda: rung.append("later"))
        other.set(60, lambda: rung.append("too late"))
        other.set(0.1, lambda: rung.append("earlier"))
        none.set(0.05, lambda: rung.append("never"))
        none.clear()
        end = time.monotonic() + 10
        while len(rung) < 2 and time.monotonic() < end:
            await asyncio.sleep(0.01)
        one.set(0.01, lambda: rung.append("again"))
        other.set(0.01, lambda: rung.append("closed"))
        other.close()
        while len(rung) < 3 and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return rung

    assert asyncio.run(ring()) == ["earlier", "later", "again"]
