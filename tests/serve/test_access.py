"""Who may ask: this machine, or whoever has a key; no other site's page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from treadle.core.errors import UserError, WorkError
from treadle.serve.access import check_keys, is_loopback

BODY = {"model": "tiny", "prompt": "x", "max_tokens": 1}
GUARDED = [
    ("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/feedback"), ("GET", "/metrics"), ("GET", "/page/config.json"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.7", False), ("example.com", False), ("localhost.example.com", False), ("", False)],
)
def test_what_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_beyond_loopback_demands_a_live_key_before_it_starts(site: Any) -> None:
    check_keys("127.0.0.1", site.ledger)
    with pytest.raises(UserError, match="treadle key add") as caught:
        check_keys("0.0.0.0", site.ledger)
    assert caught.value.exit_code == 2
    site.ledger.add_key("a")
    check_keys("0.0.0.0", site.ledger)
    site.ledger.revoke_key("a")
    with pytest.raises(UserError):
        check_keys("0.0.0.0", site.ledger)


def test_beyond_loopback_everything_but_the_page_and_health_needs_the_key(
    serve: Callable[..., Any], site: Any, until: Callable[..., None]
) -> None:
    key = site.ledger.add_key("a")
    running = serve(host="0.0.0.0")
    for path in ("/", "/page/app.js", "/page/style.css", "/healthz", "/readyz"):
        assert running.client.get(path).status_code == 200, path
    for headers in ({}, {"authorization": "Bearer tk-wrong"}, {"authorization": key}, {"authorization": f"Basic {key}"}):
        for method, path in GUARDED:
            response = running.client.request(method, path, headers=headers, json=BODY if method == "POST" else None)
            assert response.status_code == 401, (path, headers)
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
    right = {"authorization": f"Bearer {key}"}
    assert running.client.post("/v1/completions", json=BODY, headers=right).status_code == 200
    assert running.client.get("/metrics", headers=right | {"host": "models.example.com"}).status_code == 200
    site.ledger.revoke_key("a")
    until(lambda: running.client.post("/v1/completions", json=BODY, headers=right).status_code == 401)


def test_a_key_opens_the_routes_of_its_scopes_only(serve: Callable[..., Any], site: Any) -> None:
    running = serve(host="0.0.0.0")
    needs = {
        ("GET", "/v1/models"): "answer", ("GET", "/page/config.json"): "answer", ("POST", "/v1/completions"): "answer",
        ("POST", "/v1/predict"): "answer", ("POST", "/v1/embeddings"): "answer", ("POST", "/v1/feedback"): "feedback",
        ("GET", "/metrics"): "metrics",
        ("GET", "/nowhere"): "answer", ("GET", "/metrics/"): "answer", ("GET", "/%6detrics"): "metrics",
    }
    for scope in ("answer", "feedback", "metrics"):
        headers = {"authorization": f"Bearer {site.ledger.add_key(scope, [scope])}"}
        for (method, path), needed in needs.items():
            response = running.client.request(method, path, headers=headers, json=BODY if method == "POST" else None)
            assert (response.status_code != 403) == (scope == needed), (scope, path)
            if scope != needed:
                error = response.json()["error"]
                assert (error["code"], error["type"]) == ("scope_missing", "permission_error")
                assert f"lacks the scope {needed!r}" in error["message"]
                assert f"--scope {needed}" in error["message"]


def test_a_key_that_has_expired_opens_nothing_and_says_so(serve: Callable[..., Any], site: Any) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    headers = {"authorization": f"Bearer {site.ledger.add_key('guest', expires=soon)}"}
    site.ledger.add_key("owner")
    running = serve(host="0.0.0.0")
    assert running.client.get("/v1/models", headers=headers).status_code == 200
    while datetime.now(UTC) <= soon:
        time.sleep(0.05)
    response = running.client.get("/v1/models", headers=headers)
    assert response.status_code == 401
    assert f"the key 'guest' has expired, at {soon:%Y-%m-%d %H:%M} UTC" in response.json()["error"]["message"]


def test_keys_that_have_expired_let_no_server_start(site: Any) -> None:
    site.ledger.add_key("a", expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(UserError, match="treadle key add"):
        check_keys("0.0.0.0", site.ledger)


def test_on_loopback_a_key_is_checked_only_if_sent_and_if_there_are_any(shared: Any, until: Callable[..., None]) -> None:
    wrong = {"authorization": "Bearer none"}
    assert shared.client.get("/v1/models").status_code == 200
    assert shared.client.get("/v1/models", headers=wrong).status_code == 200  # as OpenAI's clients must send one
    key = shared.site.ledger.add_key("loop")
    assert shared.client.get("/v1/models").status_code == 200
    until(lambda: shared.client.get("/v1/models", headers=wrong).status_code == 401)
    assert shared.client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8000", "127.0.0.1.evil.com", "", "localhost@evil", "[::2]"])
def test_on_loopback_another_name_is_refused(shared: Any, host: str) -> None:
    for path in ("/", "/v1/models", "/healthz"):
        response = shared.client.get(path, headers={"host": host})
        assert response.status_code == 421
        assert "example" not in response.headers.get("access-control-allow-origin", "")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]", "[::1]:8000"])
def test_on_loopback_its_own_names_are_taken(shared: Any, host: str) -> None:
    assert shared.client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
def test_a_form_of_another_site_cannot_post(shared: Any, kind: str | None) -> None:
    request = httpx.Request("POST", f"{shared.url}/v1/completions", content=b'{"model": "tiny", "prompt": "x"}')
    if kind:
        request.headers["content-type"] = kind
    response = shared.client.send(request)
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    allowed = shared.client.post("/v1/completions", json=BODY, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert allowed.status_code == 200


def test_no_other_origin_is_allowed(shared: Any) -> None:
    headers = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    for response in (
        shared.client.options("/v1/completions", headers=headers),
        shared.client.post("/v1/completions", json=BODY, headers=headers),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_may_load_nothing_from_elsewhere(shared: Any) -> None:
    headers = shared.client.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_every_response_says_what_browsers_must_know(serve: Callable[..., Any], site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(running.live, "measure", broken)
    key = {"authorization": "Bearer tk-wrong"}
    site.ledger.add_key("a")
    asked = [
        ("GET", "/", {}, 200), ("GET", "/page/app.js", {}, 200), ("GET", "/page/config.json", {}, 200),
        ("GET", "/v1/models", {}, 200),
        ("GET", "/nowhere", {}, 404), ("GET", "/v1/completions", {}, 405), ("POST", "/v1/completions", {}, 400),
        ("POST", "/v1/completions", {"content-type": "text/plain"}, 415), ("GET", "/", {"host": "evil"}, 421),
        ("GET", "/v1/models", key, 401), ("POST", "/v1/completions", {"content-length": "30000"}, 413),
        ("GET", "/metrics", {}, 500),
    ]
    for method, path, headers, status in asked:
        body = {"content": b" " * 30_000 if status == 413 else b"{"} if method == "POST" else {}
        given = {"content-type": "application/json", "origin": "https://evil.example.com", **headers}
        response = running.client.request(method, path, headers=given, **body)
        assert response.status_code == status, (path, response.text)
        assert response.headers["x-content-type-options"] == "nosniff", path
        assert response.headers["referrer-policy"] == "no-referrer", path
        assert response.headers.get_list("content-security-policy")[0].startswith("default-src 'none'"), path
        assert len(response.headers.get_list("content-security-policy")) == 1, path
        assert "strict-transport-security" not in response.headers, path
        assert not [name for name in response.headers if name.startswith("access-control")], path


def test_no_prompt_answer_or_key_stands_in_a_log(
    serve: Callable[..., Any], site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    secret, running = site.ledger.add_key("a"), serve(host="0.0.0.0")
    right, wrong = {"authorization": f"Bearer {secret}"}, {"authorization": "Bearer tk-guessed-words"}
    prompt = "my private words"
    asked = {"model": "tiny", "prompt": prompt, "max_tokens": 30, "temperature": 0, "store": True}

    def ask(headers: dict[str, str], **fields: Any) -> httpx.Response:
        return running.client.post("/v1/completions", json=asked | fields, headers=headers)

    answer = ask(right).json()
    edit = {"answer_id": answer["id"], "edited": "my private edit"}
    assert running.client.post("/v1/feedback", json=edit, headers=right).status_code == 200
    refused = (ask(wrong), ask(right, temperature=prompt), ask(right, model=prompt))
    assert [response.status_code for response in refused] == [401, 400, 404]
    assert running.client.post("/v1/completions", content=b'{"prompt": "my private words', headers=right).status_code == 415

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    with site.ledger._engine.begin() as connection:  # the ledger fails, then the model
        connection.exec_driver_sql("ALTER TABLE answers RENAME TO gone")
    assert ask(right).status_code == 200
    monkeypatch.setattr("treadle.serve.engine.Engine._read", fail)
    assert ask(right).status_code == 500
    said = caplog.text + "".join(capfd.readouterr())
    assert "could not be written to the ledger" in said
    assert "no memory" in said
    for text in ("private", "guessed", secret, secret[:12], answer["choices"][0]["text"][:20]):
        assert text not in said


def test_a_ledger_that_cannot_be_read_is_500_without_details(
    shared: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    def broken(_: str) -> None:
        raise WorkError("the ledger cannot be read: disk I/O error")

    key = shared.site.ledger.add_key("broken")
    until(lambda: shared.client.get("/v1/models", headers={"authorization": "Bearer x"}).status_code == 401)
    monkeypatch.setattr(shared.site.ledger, "find_key", broken)
    response = shared.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert "I/O" not in response.text


def test_what_one_key_asked_tells_another_nothing(serve: Callable[..., Any], site: Any) -> None:
    """How many tokens of a prompt were known, and how soon its answer comes."""
    running, prompt = serve(), "def function(one, two):\n    return one + two\n" * 4
    keys = [site.ledger.add_key(name) for name in ("alice", "bob")]

    def known(key: str | None) -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        told = running.client.post("/v1/completions", json=BODY | {"prompt": prompt}, headers=headers)
        return int(told.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [known(key) for key in (*keys, None)] == [0, 0, 0]
    assert all(known(key) >= 16 for key in (*keys, None))
