"""Projects on disk, and servers of them in this process."""

from __future__ import annotations

import contextlib
import queue
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from treadle.core.project import Project, load_project
from treadle.serve.api import Also, make_app
from treadle.serve.line import Asker
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.server import configure, listen
from treadle.serve.tls import tls_context
from treadle.serve.writer import Answer, Piece, Settings
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger


@dataclass
class Site:
    """A project on disk with its store and ledger."""

    project: Project
    store: Store
    ledger: Ledger
    packages: tuple[str, str, str]
    """Ids: whole, whole, damaged."""

    def folder(self, package: str) -> Path:
        return self.store.folder(package)


@dataclass
class Running:
    """A server in this process."""

    url: str
    site: Site
    live: LiveModel
    monitor: Monitor
    client: httpx.Client

    def complete(self, prompt: str, **fields: object) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "tiny", "prompt": prompt, **fields}, timeout=60)


@contextlib.contextmanager
def copied(template: tuple[Path, tuple[str, str, str]], folder: Path) -> Iterator[Site]:
    """A fresh copy of the template in ``folder``, with version 1 live."""
    source, ids = template
    shutil.copytree(source, folder)
    project = load_project(folder)
    ledger = Ledger(project.store)
    ledger.promote(ids[0], "test")
    yield Site(project, Store(project.store), ledger, ids)
    ledger.close()


@contextlib.contextmanager
def running(site: Site, overrides: tuple[str, ...], host: str, also: Also | None = None) -> Iterator[Running]:
    project = load_project(site.project.folder, overrides)
    monitor = Monitor()
    live = LiveModel(site.store, site.ledger, project.spec.serve, monitor, project.folder)
    listener = listen("127.0.0.1", 0)
    files = project.spec.serve.tls
    tls = tls_context(project.folder, files) if files else None
    app = make_app(project, site.ledger, live, monitor, host, also)
    server = uvicorn.Server(configure(app, project.spec.serve, tls))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    try:
        trusted = ssl.create_default_context(cafile=str(project.folder / files.certificate)) if files else True
        with httpx.Client(base_url=url, timeout=30, verify=trusted) as client:
            yield Running(url, site, live, monitor, client)
    finally:
        live.close()
        server.should_exit = True
        thread.join()
        app.watch.close()
        listener.close()


class Clock:
    """One that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asks:
    """Puts prompts to an engine and collects the pieces."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def put(self, prompt: str | list[int], settings: Settings, asker: Asker | None = None) -> tuple[Answer, queue.Queue[Piece]]:
        pieces: queue.Queue[Piece] = queue.Queue()
        answer = self.engine.prepare(prompt, settings, pieces.put, asker)
        self.engine.submit(answer)
        return answer, pieces

    def finish(self, pieces: queue.Queue[Piece]) -> tuple[str, str]:
        text = ""
        while True:
            piece = pieces.get(timeout=30)
            text += piece.text
            if piece.finish_reason:
                return text, piece.finish_reason


class Crowd:
    """Six clients that ask one request after the other while it is entered, every second of them for a stream."""

    def __init__(self, url: str, tokens: int) -> None:
        self.results: list[tuple[int, str, str]] = []
        """Version, id and text (empty of a stream) of each answer."""
        self.failures: list[str] = []
        self._url, self._tokens, self._seen, self._stop = url, tokens, 0, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index % 2 == 1,)) for index in range(6)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def forget(self) -> None:
        """Let ``answered`` count from here."""
        self._seen = len(self.results)

    def answered(self, version: int, count: int) -> bool:
        return sum(given == version for given, _, _ in self.results[self._seen :]) >= count

    def _ask(self, stream: bool) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                body = {"model": "tiny", "prompt": "def f", "max_tokens": self._tokens, "temperature": 0, "stream": stream}
                response = client.post("/v1/completions", json=body)
                if response.status_code != 200 or (stream and not response.text.endswith("data: [DONE]\n\n")):
                    self.failures.append(response.text)
                    continue
                first = httpx.Response(200, text=response.text.split("\n\n")[0][6:]) if stream else response
                text = "" if stream else response.json()["choices"][0]["text"]
                assert int(response.headers["x-treadle-version"]) == first.json()["version"]
                self.results.append((first.json()["version"], first.json()["id"], text))
