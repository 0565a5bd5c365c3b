"""vLLM as a process: how it is started, what becomes of answers where it dies, and that it ends with the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sites import Running, Site, running
from stand_in import after
from stands import PLAIN, PROMPT, Ask, Stand, text_of

from treadle.core.errors import RequestError, UserError, WorkError
from treadle.data.tokenizer import load_tokenizer, token_bytes
from treadle.model.hub import load_model, save_model
from treadle.model.layers.quantized import quantize_language
from treadle.model.network import FILE as NETWORK
from treadle.model.sampling import Sampling
from treadle.serve import vllm as module
from treadle.serve.line import Asker
from treadle.serve.version import Retired, Version
from treadle.serve.vllm import VllmEngine
from treadle.serve.writer import Settings


def test_it_is_started_for_the_package_with_a_key_that_no_list_of_processes_shows(
    make_vllm: Callable[..., Ask], stand: Stand
) -> None:
    ask = make_vllm(slots=3, options=("--dtype=bfloat16",))
    (given,) = stand.all("starts")
    arguments, environment = given["arguments"], given["environment"]
    told = dict(zip(arguments[2::2], arguments[3::2], strict=False))
    assert arguments[:2] == ["serve", str(stand.package)]
    wanted = {"--max-num-seqs": "3", "--max-model-len": "1024", "--dtype": "float32"}
    assert {name: told[name] for name in wanted} == wanted
    assert arguments[-1] == "--dtype=bfloat16"  # behind its own, so that it wins
    room = Path(told["--uds"]).parent
    assert "--port" not in told  # no other user of this machine can ask it anything
    assert room.stat().st_mode & 0o777 == 0o700
    assert len(environment["VLLM_API_KEY"]) > 20
    assert environment["VLLM_API_KEY"] not in " ".join(part for line in _family(given["pid"]) for part in line)
    assert [environment[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE")] == ["1", "1", "1"]
    assert ask()[1] == "length"  # 401 without the key
    ask.engine.stop()
    assert not room.exists()


def _family(pid: int) -> list[list[str]]:
    process = psutil.Process(pid)
    return [process.cmdline(), *(parent.cmdline() for parent in process.parents())]


@pytest.mark.parametrize(("slots", "memory", "wanted"), [(3, 10**9, 4), (3, 0, 2), (7, 3 * 1152 * 256, 3)])
def test_it_gets_memory_for_all_slots_but_no_more_than_is_given(
    make_vllm: Callable[..., Ask], stand: Stand, slots: int, memory: int, wanted: int
) -> None:
    """A token of this model takes 256 bytes: keys and values, 2 layers of one head of 16 numbers of 4 bytes; a context is 1,024 and
    a page beside."""
    make_vllm(slots=slots, memory=memory)
    arguments = stand.all("starts")[0]["arguments"]
    assert int(arguments[arguments.index("--kv-cache-memory-bytes") + 1]) == wanted * 1152 * 2 * 2 * 16 * 4


def test_a_retired_engine_finishes_its_answers_and_ends_vllm(
    make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]
) -> None:
    ask = make_vllm(slots=1)
    stand.set("hold")
    running = [ask.start() for _ in range(3)]
    ask.engine.retire()
    with pytest.raises(Retired):
        ask.start()
    assert not ask.engine.done
    stand.unset("hold")
    assert [ask.finish(pieces)[1] for _, pieces in running] == ["length"] * 3
    until(lambda: ask.engine.done)
    assert not psutil.pid_exists(stand.all("starts")[0]["pid"])


def test_where_it_dies_answers_under_way_fail_and_it_is_started_anew(
    make_vllm: Callable[..., Ask], stand: Stand, capsys: pytest.CaptureFixture[str], until: Callable[..., None]
) -> None:
    ask = make_vllm(slots=1)
    stand.set("hold")
    _, dying = ask.start(Settings(2, Sampling(0.0)))
    until(lambda: stand.all("asked"))
    waiting = [ask.start()[1] for _ in range(3)]
    stand.set("die_after", 2)
    stand.unset("hold")
    assert ask.finish(dying)[1] == "error"
    assert [ask.finish(pieces) for pieces in waiting] == [(text_of(ask, after(34, 8)), "length")] * 3  # they had not begun
    assert len(stand.all("starts")) == 2
    assert "has ended (exit code 9)" in capsys.readouterr().err


def test_what_is_asked_before_its_end_is_noticed_waits_until_it_is_back(
    make_vllm: Callable[..., Ask], stand: Stand
) -> None:
    ask = make_vllm(slots=2)
    process = psutil.Process(stand.all("starts")[0]["pid"])
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)
    running = [ask.start()[1] for _ in range(4)]
    assert [ask.finish(pieces) for pieces in running] == [(text_of(ask, after(34, 8)), "length")] * 4
    assert len(stand.all("asked")) == 4


def test_where_it_does_not_come_back_those_who_wait_are_told_and_it_is_tried_again_later(
    make_vllm: Callable[..., Ask], stand: Stand, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 1.0)
    ask = make_vllm(slots=1)
    stand.set("no_start")
    os.kill(stand.all("starts")[0]["pid"], signal.SIGKILL)
    until(lambda: len(stand.all("starts")) > 1)
    _, pieces = ask.start()
    assert ask.finish(pieces) == ("", "error")
    with pytest.raises(RequestError, match="does not start") as caught:
        ask.start()
    assert caught.value.status == 503
    assert len(stand.all("starts")) <= 1 + module._TRIES
    stand.unset("no_start")
    until(lambda: ask.engine._up)
    assert ask() == (text_of(ask, after(34, 8)), "length")


def test_a_deadline_holds_while_it_is_started_anew(make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]) -> None:
    ask = make_vllm()
    stand.set("slow_start", 600)
    os.kill(stand.all("starts")[0]["pid"], signal.SIGKILL)
    until(lambda: len(stand.all("starts")) > 1)
    assert ask.finish(ask.start(asker=Asker(until=time.monotonic() + 0.2))[1]) == ("", "late")


def test_one_that_takes_no_requests_any_more_is_ended_and_started_anew(
    make_vllm: Callable[..., Ask], stand: Stand, until: Callable[..., None]
) -> None:
    ask = make_vllm(slots=1)
    stand.set("sick")
    stand.set("refuse", 500)
    assert ask() == ("", "error")
    until(lambda: len(stand.all("starts")) > 1)
    stand.unset("refuse")
    stand.unset("sick")
    assert ask()[1] == "length"


@pytest.mark.parametrize(("name", "value"), [("refuse", 400), ("break_after", 3)])
def test_an_answer_that_fails_fails_alone_and_no_log_has_its_prompt(
    make_vllm: Callable[..., Ask], stand: Stand, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    until: Callable[..., None], name: str, value: int,
) -> None:
    ask = make_vllm()
    stand.set("hold")
    _, other = ask.start(Settings(2, Sampling(0.0)))
    until(lambda: stand.all("asked"))
    stand.set(name, value)
    stand.unset("hold")
    assert ask(PLAIN, [0, 77, 177, 277])[1] == "error"
    assert ask.finish(other)[1] == "length"
    stand.unset(name)
    assert ask()[1] == "length"
    assert len(stand.all("starts")) == 1
    said = caplog.text + "".join(capsys.readouterr())
    assert "an answer of version 1 failed" in said
    assert "177" not in said
    assert "asked for" not in ask.engine._child.last_lines()  # which it writes for each request


def test_one_that_does_not_start_is_told_with_what_it_wrote_but_no_key(make_vllm: Callable[..., Ask], stand: Stand) -> None:
    stand.set("no_start")
    with pytest.raises(WorkError, match=r"does not start for version 1 \(exit code 3\)") as caught:
        make_vllm()
    assert "cannot open the model; the key is ..." in caught.value.message
    assert stand.all("starts")[0]["environment"]["VLLM_API_KEY"] not in str(caught.value)
    assert "engine_options" in caught.value.cure


def test_a_start_is_broken_off_where_the_server_stops(stand: Stand, until: Callable[..., None]) -> None:
    stand.set("slow_start", 600)
    stop, found = threading.Event(), list[BaseException]()

    def begin() -> None:
        tokenizer = load_tokenizer(stand.package / "tokenizer.json")
        try:
            VllmEngine(stand.package, tokenizer, Version(1, "package", 0), 1, 1, None, [0], 0, (), stop)
        except WorkError as error:
            found.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    until(lambda: stand.all("starts"))
    stop.set()
    thread.join(20)
    assert "broken off" in str(found[0])
    assert not psutil.pid_exists(stand.all("starts")[0]["pid"])


def test_without_the_program_the_cure_is_told(stand: Stand, monkeypatch: pytest.MonkeyPatch, make_vllm: Callable[..., Ask]) -> None:
    monkeypatch.setenv("TREADLE_VLLM", "/nowhere/vllm")
    with pytest.raises(UserError, match="TREADLE_VLLM names /nowhere/vllm") as caught:
        make_vllm()
    assert "serve.engine: treadle" in caught.value.cure
    monkeypatch.delenv("TREADLE_VLLM")
    monkeypatch.setenv("PATH", str(stand.folder / "asked"))
    with pytest.raises(UserError, match="no program vllm"):
        make_vllm()
    monkeypatch.setenv("PATH", f"{stand.folder}:/usr/bin:/bin")
    assert make_vllm()()[1] == "length"  # found by its name


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packages_that_vllm_cannot_open_are_refused_before_it_is_started(
    stand: Stand, make_vllm: Callable[..., Ask], tmp_path: Path, kind: str
) -> None:
    model = load_model(stand.package)
    quantize_language(model, kind)
    tokenizer = (stand.package / "tokenizer.json").read_text()
    stand.package = tmp_path / kind
    stand.package.mkdir()
    save_model(model, stand.package)
    (stand.package / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(UserError, match=kind) as caught:
        make_vllm()
    assert "compress: {quantize: none}" in caught.value.cure
    (stand.package / NETWORK).write_text("{}")
    with pytest.raises(UserError, match="a network of this project's own"):
        make_vllm()
    assert stand.all("starts") == []


OWNER = """
import sys, time
from pathlib import Path
from treadle.serve.child import Child
child = Child(sys.argv[1], Path(sys.argv[2]), ())
while not child.well():
    time.sleep(0.05)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_a_server_that_is_killed(stand: Stand, until: Callable[..., None], how: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, stand.folder / "vllm", stand.package], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    pid = stand.all("starts")[0]["pid"]
    assert psutil.pid_exists(pid)
    owner.send_signal(how)
    owner.wait()
    until(lambda: not psutil.pid_exists(pid))


def test_adapters_are_refused(stand: Stand, site: Site) -> None:
    options = ("serve.engine=vllm", 'serve.adapters={"tone": "adapters/tone"}')
    with pytest.raises(UserError, match="own engine"), running(site, options, "127.0.0.1"):
        pass
    assert stand.all("starts") == []


@pytest.fixture
def served(stand: Stand, site: Site) -> Iterator[Running]:
    with running(site, ("serve.engine=vllm",), "127.0.0.1") as server:
        yield server


def test_everything_else_of_the_server_is_as_before(served: Running, stand: Stand) -> None:
    table = token_bytes(load_tokenizer(stand.package / "tokenizer.json"), 320)
    text = b"".join(table[token] for token in after(34, 6)).decode("utf-8", "replace")
    told = served.client.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "store": True}).json()
    assert (told["choices"][0]["text"], told["version"], told["stored"]) == (text, 1, True)
    assert told["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}
    }
    assert served.client.post("/v1/feedback", json={"answer_id": told["id"], "rating": "up"}).status_code == 200
    row = served.site.ledger.answer(told["id"])
    assert row is not None
    assert (row["text"], row["finish_reason"], row["answer_tokens"]) == (text, "length", 6)
    with served.client.stream("POST", "/v1/completions", json={
        "model": "tiny", "prompt": PROMPT, "max_tokens": 6, "stream": True, "n": 2,
    }) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    for index in (0, 1):
        parts = [choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"] if choice["index"] == index]
        assert "".join(parts) == text
    chat = served.client.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
    assert (chat.status_code, chat.json()["choices"][0]["message"]["role"]) == (200, "assistant")
    model = served.client.get("/v1/models").json()["data"][0]
    assert (model["kind"], model["context"]) == ("language", 1024)
    stand.set("refuse", 500)
    failed = served.complete("x")
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")


def test_another_version_takes_over_and_the_old_one_ends(served: Running, stand: Stand, until: Callable[..., None]) -> None:
    second = served.site.packages[1]
    stand.set("hold")
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(served.complete("x", max_tokens=4).json()))
    thread.start()
    until(lambda: stand.all("asked"))
    served.site.ledger.promote(second, "test")
    until(lambda: served.live.version.number == 2)
    old, new = stand.all("starts")
    assert new["arguments"][1].endswith(second.partition("-")[2])
    assert psutil.pid_exists(old["pid"])  # it finishes what it began
    stand.unset("hold")
    thread.join()
    assert answers[0]["version"] == 1
    assert served.complete("x", max_tokens=4).json()["version"] == 2
    until(lambda: not psutil.pid_exists(old["pid"]))


def test_a_version_that_vllm_does_not_start_changes_nothing(served: Running, stand: Stand, until: Callable[..., None]) -> None:
    stand.set("no_start")
    served.site.ledger.promote(served.site.packages[1], "test")
    until(lambda: served.live.failed)
    assert "vLLM does not start for version 2" in served.client.get("/readyz").json()["failed"]["message"]
    assert served.complete("x", max_tokens=4).json()["version"] == 1


def test_a_server_whose_vllm_is_gone_is_not_ready_and_says_why(
    served: Running, stand: Stand, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 60.0)

    def ready() -> tuple[int, str, str | None]:
        response = served.client.get("/readyz")
        assert served.client.get("/v1/status").json()["stalled"] == response.json()["stalled"]
        return response.status_code, response.json()["status"], response.json()["stalled"]

    assert ready() == (200, "ready", None)
    stand.set("slow_start", 3)
    os.kill(stand.all("starts")[0]["pid"], signal.SIGKILL)
    until(lambda: served.client.get("/readyz").json()["stalled"])
    assert ready() == (503, "stalled", "vLLM is starting")
    stand.unset("slow_start")
    until(lambda: served.client.get("/readyz").status_code == 200)
    stand.set("no_start")
    os.kill(stand.all("starts")[-1]["pid"], signal.SIGKILL)
    until(lambda: "tried again in" in (served.client.get("/readyz").json()["stalled"] or ""))
    assert served.client.get("/readyz").status_code == 503
    assert served.client.get("/healthz").status_code == 200, "a new process would help nothing"


def test_a_client_that_goes_away_frees_its_place(served: Running, stand: Stand, until: Callable[..., None]) -> None:
    stand.set("hold")
    with pytest.raises(Exception, match="timed out"):
        served.client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 500}, timeout=1)
    until(lambda: stand.marks("dropped") == [1])
    until(lambda: served.live.busy == 0)
