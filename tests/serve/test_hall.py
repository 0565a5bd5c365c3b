"""Several models on one server: the field 'model' leads to each, and ledgers, keys, limits and policies are each one's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sites import Site

from treadle.console.app import add_console
from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.serve import live as module
from treadle.serve.models import Models, Served, check_apart
from treadle.serve.server import configure, listen
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger


@dataclass
class Pair:
    """A server of the projects ``tiny`` and ``other``."""

    url: str
    models: Models
    tiny: Ledger
    other: Ledger
    client: httpx.Client

    def ask(self, model: str | None, route: str = "completions", key: str | None = None, **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"prompt": "def f", "max_tokens": 4} if route == "completions" else {}
        named = {"model": model} if model else {}
        return self.client.post(f"/v1/{route}", json={**body, **named, **fields}, headers=headers)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)


@pytest.fixture
def folders(site: Site, tmp_path: Path) -> tuple[Path, Path]:
    """The projects tiny, with package 0 live, and other, with package 1."""
    other = tmp_path / "other"
    shutil.copytree(site.project.folder, other)
    shutil.rmtree(other / ".treadle")
    shutil.copytree(site.project.store / "artifacts", other / ".treadle" / "artifacts")
    file = other / "treadle.yaml"
    own = "serve: {slots: 1, max_tokens: 6, store: never, max_body: 3000, limits: {requests_per_minute: 2}}"
    lines = file.read_text().replace("name: tiny", "name: other").splitlines()
    file.write_text("\n".join(own if line.startswith("serve:") else line for line in lines))
    ledger = Ledger(load_project(other).store)
    ledger.promote(site.packages[1], "test")
    ledger.close()
    return site.project.folder, other


@pytest.fixture
def serve(folders: tuple[Path, Path]) -> Iterator[Callable[[str], Pair]]:
    with contextlib.ExitStack() as stack:

        def served(host: str = "127.0.0.1") -> Pair:
            projects = [load_project(folder) for folder in folders]
            every = [Served(project, Store(project.store), Ledger(project.store)) for project in projects]
            for one in every:
                stack.callback(one.ledger.close)
            models = stack.enter_context(contextlib.closing(Models()))
            listener = stack.enter_context(contextlib.closing(listen("127.0.0.1", 0)))
            server = uvicorn.Server(configure(models.open(every, host, add_console), projects[0].spec.serve))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(lambda: setattr(server, "should_exit", True))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            client = stack.enter_context(httpx.Client(base_url=url, timeout=60))
            return Pair(url, models, every[0].ledger, every[1].ledger, client)

        yield served


def test_the_model_that_is_named_answers(serve: Callable[..., Pair], site: Site) -> None:
    pair = serve()
    listed = [(model["id"], model["package"]) for model in pair.client.get("/v1/models").json()["data"]]
    assert listed == [("tiny", site.packages[0]), ("other", site.packages[1])]
    for name, package in listed:
        assert pair.client.get(f"/v1/models/{name}").json()["package"] == package
    assert pair.client.get("/v1/models/neither").status_code == 404
    texts = {}
    for name, ledger, stranger in (("tiny", pair.tiny, pair.other), ("other", pair.other, pair.tiny)):
        told = pair.ask(name, temperature=0, store=True).json()
        assert told["model"] == name
        assert told["stored"] == (name == "tiny"), "each has its own policy"
        assert ledger.answer(told["id"])["package"] == site.packages[0 if name == "tiny" else 1]
        assert stranger.answer(told["id"]) is None
        texts[name] = told["choices"][0]["text"]
        said = pair.ask(None, "feedback", answer_id=told["id"], rating="up")
        assert (said.status_code, len(ledger.all_feedback())) == (200, 1)
    assert texts["tiny"] != texts["other"]
    missing = pair.ask("third")
    assert missing.status_code == 404
    assert "'tiny', 'other'" in missing.json()["error"]["message"]
    assert pair.ask(None, "feedback", answer_id="cmpl-unknown", rating="up").status_code == 404
    with pair.client.stream("POST", "/v1/completions", json={"model": "other", "prompt": "x", "stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all('"model":"other"' in line for line in lines[:-1])
    chat = pair.ask("other", "chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert (chat.status_code, chat.json()["model"]) == (200, "other")


def test_each_has_its_own_settings_and_figures(serve: Callable[..., Pair]) -> None:
    pair = serve()
    assert pair.ask("tiny", max_tokens=8).status_code == 200
    assert "more than 6" in pair.ask("other", max_tokens=8).json()["error"]["message"]
    assert pair.ask("tiny", user="x" * 400, prompt="y" * 4000).status_code in (200, 400)
    assert pair.ask("other", prompt="y" * 4000).status_code == 413
    assert pair.ask("tiny", prompt="y" * 40_000).status_code == 413, "no room takes so much"
    pages = [pair.client.get("/page/config.json", params=given).json()["model"] for given in ({}, {"model": "other"})]
    assert pages == ["tiny", "other"]
    pair.ask("other")
    figures = {name: pair.client.get("/metrics", params={"model": name}).text for name in ("tiny", "other")}
    assert 'treadle_tokens_total{direction="answer",' in figures["other"]
    line = re.compile(r'treadle_requests_total\{.*route="/v1/completions".*status="200".*\} (\S+)')
    written = {name: sum(map(float, line.findall(text))) for name, text in figures.items()}
    assert written["other"] == 1
    assert written["tiny"] >= 1
    assert pair.client.get("/").status_code == 200
    assert pair.client.get("/readyz").json()["version"] == 1
    assert pair.client.get("/nowhere").status_code == 404
    for broken in (b"{", b"[" * 10_000, b"[]", b'"model"', b"\xff", b'{"model": ["tiny"]}'):
        response = pair.client.post("/v1/completions", content=broken, headers={"content-type": "application/json"})
        assert response.status_code == 400, broken[:20]


def test_a_key_opens_the_model_whose_ledger_knows_it(serve: Callable[..., Pair], until: Callable[..., None]) -> None:
    pair = serve("0.0.0.0")
    keys = {"tiny": pair.tiny.add_key("alice"), "other": pair.other.add_key("bob")}

    def models(key: str) -> httpx.Response:
        return pair.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})

    for name, key in keys.items():
        assert [model["id"] for model in models(key).json()["data"]] == [name]
        assert pair.ask(name, key=key).status_code == 200
    assert pair.ask("other", key=keys["tiny"]).status_code == 401
    assert pair.ask("tiny", key=keys["other"]).status_code == 401
    assert models("tk-wrong").status_code == 401
    assert pair.client.get("/v1/models").status_code == 401
    assert pair.ask("other").status_code == 401
    # A right key is no wrong one elsewhere: no one is locked out for it.
    for _ in range(30):
        assert models(keys["other"]).status_code == 200
    assert pair.ask("tiny", key=keys["tiny"]).status_code == 200
    # The limits are those of the model's own project: 2 requests a minute for other, none for tiny.
    assert [pair.ask("other", key=keys["other"]).status_code for _ in range(2)] == [200, 429]
    assert [pair.ask("tiny", key=keys["tiny"]).status_code for _ in range(4)] == [200] * 4
    until(lambda: pair.other.list_keys()[0]["today"]["requests"] == 2)
    # Feedback finds its answer among the models that the key opens.
    told = pair.ask("tiny", key=keys["tiny"]).json()
    assert pair.ask(None, "feedback", key=keys["tiny"], answer_id=told["id"], rating="up").status_code == 200
    assert pair.ask(None, "feedback", key=keys["other"], answer_id=told["id"], rating="up").status_code in (404, 429)
    assert len(pair.tiny.all_feedback()) == 1


def test_the_body_of_one_without_a_key_is_not_read(serve: Callable[..., Pair]) -> None:
    pair = serve("0.0.0.0")
    pair.tiny.add_key("alice")

    host, port = pair.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 900\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_a_body_without_end_is_not_read_on(serve: Callable[..., Pair]) -> None:
    host, port = serve().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        for _ in range(25):
            connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_each_follows_its_own_ledger_and_all_stop_together(
    serve: Callable[..., Pair], site: Site, until: Callable[..., None]
) -> None:
    pair = serve()
    pair.other.promote(site.packages[0], "better")
    until(lambda: pair.models.lives[1].version.number == 2)
    assert [model["version"] for model in pair.client.get("/v1/models").json()["data"]] == [1, 2]
    assert pair.ask("tiny").json()["version"] == 1
    pair.models.draining = True
    assert [pair.ask(name).status_code for name in ("tiny", "other")] == [503, 503]
    assert pair.client.get("/readyz").status_code == 503


def test_two_of_one_name_or_ledger_are_refused(site: Site, folders: tuple[Path, Path]) -> None:
    project, other = (load_project(folder) for folder in folders)
    ours = Served(project, site.store, site.ledger)
    check_apart([ours, Served(other, site.store, site.ledger)])
    with pytest.raises(UserError, match="same name: tiny"):
        check_apart([ours, ours])
    shared = load_project(folders[1], (f"store={json.dumps(str(project.store))}",))
    with pytest.raises(UserError, match="same ledger: other"):
        check_apart([ours, Served(shared, site.store, site.ledger)])


def test_the_console_is_that_of_the_project_that_was_chosen_last(serve: Callable[..., Pair]) -> None:
    pair = serve()

    def shown(path: str) -> str:
        response = pair.client.get(path, follow_redirects=True)
        assert response.status_code == 200
        (name,) = re.findall(r"<title>[^<]* · (\w+) · Treadle</title>", response.text)
        return str(name)

    assert shown("/console") == "tiny"
    listed = pair.client.get("/console/projects").text
    assert 'href="/console/projects?model=other"' in listed
    assert str(pair.other.live()["package"]) not in listed
    assert shown("/console/projects?model=other") == "other"
    cookie = next(iter(pair.client.cookies.jar))
    assert (cookie.name, cookie.value, cookie.path) == ("treadle_model", "other", "/console")
    assert [shown(path) for path in ("/console", "/console/keys", "/console/feedback")] == ["other"] * 3
    token = re.findall(r'name="token" content="([\w-]+)"', pair.client.get("/console/keys").text)[0]
    made = pair.client.post("/console/keys", json={"name": "made", "scopes": ["answer"]}, headers={"x-treadle-token": token})
    assert made.status_code == 200, made.text
    assert [[row["name"] for row in ledger.list_keys()] for ledger in (pair.tiny, pair.other)] == [[], ["made"]]
    assert shown("/console?model=tiny") == "tiny"
    assert shown("/console/keys") == "tiny"
    assert pair.client.get("/console?model=neither").headers.get("set-cookie") is None
    assert pair.client.get("/v1/models?model=other").headers.get("set-cookie") is None
    pair.client.cookies.set("treadle_model", "no\"such", path="/console")
    assert shown("/console") == "tiny"


@pytest.mark.parametrize("by_file", [False, True])
def test_the_command_serves_both_and_stops_both(site: Site, folders: tuple[Path, Path], by_file: bool) -> None:
    named = ["--with", str(folders[1])]
    if by_file:  # from the project's folder on, wherever the command runs
        named = ["--set", f"serve.beside=[{os.path.relpath(folders[1], folders[0])}]"]
    command = [sys.executable, "-m", "treadle", "serve", "-f", str(folders[0]), *named, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while not said.endswith("}\n"):
            said += process.stdout.readline()
        url = json.loads(said)["url"]
        for name in ("tiny", "other"):
            body = {"model": name, "prompt": "x", "max_tokens": 1}
            assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["model"] == name
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    for folder in folders:
        ledger = Ledger(load_project(folder).store)
        assert [entry["action"] for entry in ledger.audit()][-2:] == ["start server", "stop server"]
        ledger.close()
    twice = subprocess.run([*command, "--with", str(folders[1])], capture_output=True, text=True, timeout=60, check=False)
    assert twice.returncode == 2
    assert "same name: other" in twice.stderr
