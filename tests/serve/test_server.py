"""The server as a process: it starts or says why not, and stops without breaking an answer off."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from treadle.core.errors import ArtifactError, UserError, WorkError
from treadle.serve.audit import note
from treadle.serve.server import listen, run_server
from treadle.store.ledger import Ledger

PROGRAM = """
import sys, time
from pathlib import Path
from treadle.core.project import load_project
from treadle.serve import engine
from treadle.serve.server import run_server
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

project = load_project(Path(sys.argv[1]), sys.argv[3:])
real, pause = engine.Engine._read, float(sys.argv[2])
def read(*given):
    time.sleep(pause)
    return real(*given)
engine.Engine._read = read
run_server(project, Store(project.store), Ledger(project.store), "127.0.0.1", 0)
print("ended well")
"""


class Process:
    """``run_server`` of a project in a process of its own, one token every ``pause`` seconds."""

    def __init__(self, folder: Path, pause: float, overrides: tuple[str, ...]) -> None:
        command = [sys.executable, "-c", PROGRAM, str(folder), str(pause), *overrides]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
        assert self.popen.stderr is not None
        self.errors = [self.popen.stderr.readline()]
        match = re.fullmatch(r"Serving tiny version 1 at (https?://127\.0\.0\.1:\d+)\n", self.errors[0])
        assert match, self.errors[0] + self.popen.stderr.read()
        self.url = match.group(1)

    def stream(self, tokens: int) -> Iterator[Any]:
        body = {"model": "tiny", "prompt": "def f", "max_tokens": tokens, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=60) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                if line:
                    yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])

    def end(self) -> tuple[int, str, str]:
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


@pytest.fixture
def process(site: Any) -> Iterator[Callable[..., Process]]:
    started = []

    def start(*overrides: str, pause: float = 0.02) -> Process:
        started.append(Process(site.project.folder, pause, overrides))
        return started[-1]

    yield start
    for each in started:
        each.popen.kill()
        each.popen.communicate()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_running_stream_is_finished_after_the_signal(
    process: Callable[..., Process], site: Any, until: Callable[..., None], sign: signal.Signals
) -> None:
    server = process()
    stream = server.stream(100)
    first = next(stream)
    server.popen.send_signal(sign)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    refused = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "x"})
    assert refused.status_code == 503
    *rest, done = stream
    assert (done, rest[-1]["choices"][0]["finish_reason"]) == ("[DONE]", "length")
    code, out, err = server.end()
    assert (code, out) == (0, "ended well\n"), err
    assert "answers under way: 1" in err
    assert "Traceback" not in err
    assert site.ledger.answer(first["id"])["answer_tokens"] == 100
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


def test_what_is_not_done_when_the_drain_is_over_is_broken_off_and_filed(process: Callable[..., Process], site: Any) -> None:
    server = process("serve.drain=0.3")
    stream = server.stream(1000)
    first = next(stream)
    server.popen.send_signal(signal.SIGTERM)
    *_, last = stream
    assert "stopping" in last["error"]["message"]
    code, _, err = server.end()
    assert (code, "answers broken off: 1" in err) == (0, True), err
    assert site.ledger.answer(first["id"])["finish_reason"] == "cancelled"


def test_a_second_signal_ends_it_at_once(process: Callable[..., Process], site: Any, until: Callable[..., None]) -> None:
    server = process()
    stream = server.stream(1000)
    first = next(stream)
    server.popen.send_signal(signal.SIGINT)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    server.popen.send_signal(signal.SIGINT)
    code, _, err = server.end()
    assert (code, "Traceback" in err) == (0, False), err
    assert site.ledger.answer(first["id"])["finish_reason"] == "cancelled"


def test_an_idle_server_ends_quickly(process: Callable[..., Process]) -> None:
    server = process()
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    server.popen.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


def test_starts_and_stops_stand_in_the_audit_trail(process: Callable[..., Process], site: Any) -> None:
    stopped, killed = process(), process()
    stopped.popen.send_signal(signal.SIGTERM)
    assert stopped.end()[0] == 0
    killed.popen.kill()
    killed.end()
    entries = [(row["action"], row["detail"].get("url")) for row in site.ledger.audit()]
    assert entries == [
        ("promote", None), ("start server", stopped.url), ("start server", killed.url), ("stop server", stopped.url),
    ]
    assert site.ledger.check_audit()[0] == 4


def test_a_trail_that_cannot_be_written_is_said(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise WorkError("the ledger cannot be written: disk full")

    monkeypatch.setattr(site.ledger, "note", full)
    note(site.ledger, "stop server", {"url": "http://127.0.0.1:1"})
    assert "stop server {'url': 'http://127.0.0.1:1'}" in caplog.text
    assert "disk full" in caplog.text


def test_a_port_in_use_an_address_elsewhere_and_no_such_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1 port {port}: Address already in use") as caught:
            listen("127.0.0.1", port)
        assert "--port" in caught.value.cure
        assert caught.value.exit_code == 2
    with pytest.raises(UserError, match=r"192\.0\.2\.1") as caught:
        listen("192.0.2.1", 0)
    assert "serve.host" in caught.value.cure
    with pytest.raises(UserError, match="no host"):
        listen("no host", 0)


def test_it_does_not_start_without_a_version_a_key_or_a_whole_package(site: Any, tmp_path: Path) -> None:
    empty = Ledger(tmp_path / "empty")
    with pytest.raises(UserError, match="no version is live"):
        run_server(site.project, site.store, empty, "127.0.0.1", 0)
    empty.close()
    with pytest.raises(UserError, match="treadle key add"):
        run_server(site.project, site.store, site.ledger, "0.0.0.0", 0)
    site.ledger.promote(site.packages[2], "damaged")
    before = threading.active_count()
    with pytest.raises(ArtifactError, match="sha256"):
        run_server(site.project, site.store, site.ledger, "127.0.0.1", 0)
    assert threading.active_count() == before
