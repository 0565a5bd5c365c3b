"""Projects on disk, and servers of them in this process."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from treadle.core.project import Project, load_project
from treadle.serve.api import Also, make_app
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.server import configure, listen
from treadle.serve.tls import tls_context
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
        app.state.watch.close()
        listener.close()
