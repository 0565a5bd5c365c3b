"""A tiny project with three packages (two whole, random weights; one damaged), and servers of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from every_input import project_with_every_input
from playwright.sync_api import Browser, Page, sync_playwright
from sites import Clock, Running, Site, copied, running
from stand_in import install
from stands import Ask, Stand
from tagged import alike_project, tagged_project

from treadle.core.project import load_project
from treadle.data.shards import END_ID
from treadle.data.tokenizer import load_tokenizer, train_tokenizer
from treadle.model.hub import save_model
from treadle.model.model import make_model
from treadle.serve.version import Version
from treadle.serve.vllm import VllmEngine
from treadle.store.artifacts import Store

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SPEC = """
name: tiny
data: {sources: [{files: "*.py", licence: PSF-2.0}]}
model:
  inputs: {text: {tokenizer: {bpe: 320}, context: 1024}}
  trunk: {transformer: {depth: 2, width: 32, heads: 2, kv_heads: 1, hidden: 64}}
serve: {slots: 3, queue: 8, max_tokens: 1000, drain: 20, max_body: 20000}
"""
TEMPLATE = """{% for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{% for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}assistant: """


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str, str]]:
    folder = tmp_path_factory.mktemp("template")
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    store = Store(project.store)
    source = Path(json.__file__).with_name("decoder.py").read_text() + "naïve café — “quoted” 你好 🙂🙃 " * 3
    tokenizer = train_tokenizer([source], project.resolved.shape.vocabulary)
    assert tokenizer.get_vocab_size() == project.resolved.shape.vocabulary
    ids = []
    for seed in range(3):
        id = store.identify("package", [], {"seed": seed}, 1)
        with store.create(id, parents=[], config={"seed": seed}, version=1, seed=seed) as draft:
            model = make_model(project.resolved.shape, seed=seed)
            with torch.no_grad():  # surer than fresh weights are, so that no rounding decides; the end mark is hardly ever drawn
                model.trunk.norm.weight.mul_(30)
                model.embedding.weight[END_ID] *= 0.01
            save_model(model, draft.path)
            tokenizer.save(str(draft.path / "tokenizer.json"))
            (draft.path / "chat_template.jinja").write_text(TEMPLATE)
        ids.append(id)
    damaged = store.folder(ids[2]) / "model.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return folder, (ids[0], ids[1], ids[2])


@pytest.fixture
def site(template: tuple[Path, tuple[str, str, str]], tmp_path: Path) -> Iterator[Site]:
    """A fresh copy, with version 1 live."""
    with copied(template, tmp_path / "project") as site:
        yield site


@pytest.fixture
def serve(site: Site) -> Iterator[Callable[..., Running]]:
    """``serve(overrides..., host=...)`` starts a server in this process; all are stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *overrides, host="127.0.0.1": stack.enter_context(running(site, overrides, host))


@pytest.fixture(scope="module")
def shared(template: tuple[Path, tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for the tests of a module that leave nothing behind which others would see."""
    with copied(template, tmp_path_factory.mktemp("shared") / "project") as site, running(site, (), "127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server of a model of records with every kind of input."""
    project, store, ledger, id = project_with_every_input(tmp_path_factory.mktemp("sky"))
    with running(Site(project, store, ledger, (id, id, id)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server of a model that marks names and places."""
    project, store, ledger, id = tagged_project(tmp_path_factory.mktemp("names"))
    with running(Site(project, store, ledger, (id, id, id)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server of a model that says how much two texts are alike."""
    project, store, ledger, id = alike_project(tmp_path_factory.mktemp("alike"))
    with running(Site(project, store, ledger, (id, id, id)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


@pytest.fixture
def stand(template: tuple[Path, tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    folder, ids = template
    found = Stand(tmp_path / "stand-in", folder / ".treadle" / "artifacts" / "package" / ids[0].partition("-")[2])
    monkeypatch.setenv("TREADLE_VLLM", str(install(found.folder)))
    return found


@pytest.fixture
def make_vllm(stand: Stand) -> Iterator[Callable[..., Ask]]:
    """``make_vllm(slots=, queue=, options=)`` gives an engine that the stand-in writes for."""
    engines = []

    def new(slots: int = 2, queue: int = 16, memory: int = 10**9, options: tuple[str, ...] = ()) -> Ask:
        tokenizer = load_tokenizer(stand.package / "tokenizer.json")
        engines.append(VllmEngine(
            stand.package, tokenizer, Version(1, "package", 0), slots, queue, None, [0], memory, options, threading.Event()
        ))
        return Ask(engines[-1])

    yield new
    for engine in engines:
        engine.stop()
    assert not [given["pid"] for given in stand.all("starts") if psutil.pid_exists(given["pid"])]


@pytest.fixture
def gate(serve: Callable[..., Running]) -> Iterator[Callable[[], threading.Event]]:
    """Makes events that threads wait for; they are set at the end in any case, so that a test which fails ends."""
    made: list[threading.Event] = []

    def make() -> threading.Event:
        made.append(threading.Event())
        return made[-1]

    yield make
    for event in made:
        event.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Polls until something is true; fails after 20 s."""

    def wait(holds: Callable[[], object], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        assert os.environ.get("CI") != "true", "CI must have Debian's chromium"
        pytest.skip("needs Debian's chromium")
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """``open_page(url, width, scheme)``; whatever the console complains of, a blocked script or style too, fails the test."""
    pages, complaints = [], []

    def opened(url: str, width: int = 1280, scheme: Any = "light", wanted: str = "") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda m: None if m.type in ("log", "info") or _is(wanted, m.text) else complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.removeprefix("blob:").startswith(url) else complaints.append(f"asked {r.url}"))
        page.goto(url)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert complaints == []


def _is(wanted: str, text: str) -> bool:
    return bool(wanted) and wanted in text
