"""Who gets into the console: this machine, or who has signed in with a key that opens it; and no page of another site."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from consoles import PAGES, console, furnish
from sites import Running, Site
from starlette.datastructures import Headers

from treadle.serve.sessions import LIFE, MOST, Sessions

ASK = {"model": "tiny", "prompt": "x", "max_tokens": 1}
NEW = {"name": "new", "scopes": ["answer"]}
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/console/keys", NEW), ("/console/keys/revoke", {"name": "shop"}), ("/console/feedback", {"answer_id": "a", "rating": "up"}),
    ("/console/playground/vote", {"left": "a", "right": "b", "choice": "left"}), ("/console/logout", {}),
]


@pytest.fixture
def beyond(site: Site) -> Iterator[Callable[..., Running]]:
    """Starts a server that others can reach, with a console; the key ``owner`` opens it, ``shop`` does not."""
    with contextlib.ExitStack() as stack:
        yield lambda *overrides: stack.enter_context(console(site, *overrides, host="0.0.0.0"))


def sign_in(server: Running, key: str, **headers: str) -> httpx.Response:
    return server.client.post("/console/login", json={"key": key}, headers=headers)


def token(server: Running) -> dict[str, str]:
    """The header that only a page of this session has."""
    found = re.search(r'<meta name="token" content="([^"]+)">', server.client.get("/console/keys").text)
    assert found
    return {"x-treadle-token": found[1]}


def test_beyond_loopback_no_page_and_no_deed_is_open(beyond: Callable[..., Running], site: Site) -> None:
    site.ledger.add_key("shop")
    server = beyond()
    for path in (*PAGES, "/runs/live", "/runs/model-aa", "/compare?of=a&of=b", "/nowhere"):
        assert server.client.get(f"/console{path}").status_code == 401, path
        asked = server.client.get(f"/console{path}", headers={"accept": "text/html"})
        where = f"/console/login?next={httpx.QueryParams({'n': f'/console{path}'})!s}".replace("n=", "", 1)
        assert (asked.status_code, asked.headers["location"]) == (303, where)
    for path, body in POSTS:
        assert server.client.post(path, json=body).status_code == 401, path
    assert [key["name"] for key in site.ledger.all_keys() if key["revoked"] is None] == ["shop"]
    for path in ("/console/login", "/console/static/console.css", "/console/static/login.js"):
        assert server.client.get(path).status_code == 200


def test_a_key_that_opens_the_console_signs_in_and_others_do_not(beyond: Callable[..., Running], site: Site) -> None:
    furnish(site)
    owner, shop = site.ledger.add_key("owner", ["console"]), site.ledger.add_key("shop")
    gone = site.ledger.add_key("gone", ["console"], expires=datetime.now(UTC) + timedelta(seconds=1))
    server = beyond()
    while datetime.now(UTC) < site.ledger.all_keys()[-1]["expires"]:
        time.sleep(0.05)
    refusals = (("tk-wrong", 401, "not known"), (shop, 403, "does not open the console"), (gone, 401, "has expired"))
    for key, status, words in refusals:
        refused = sign_in(server, key)
        assert refused.status_code == status
        assert words in refused.json()["error"]["message"]
        assert "set-cookie" not in refused.headers
    assert "cookie" not in server.client.get("/console/login").headers
    admitted = sign_in(server, owner)
    assert admitted.status_code == 200
    cookie = admitted.headers["set-cookie"]
    assert cookie.startswith("treadle-session=")
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={int(LIFE)}"} <= set(cookie.split("; "))
    assert owner not in cookie
    for path in PAGES:
        page = server.client.get(f"/console{path}")
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-store"), path
    assert [row["detail"] for row in site.ledger.audit() if row["action"] == "sign in"] == [{"by": "owner"}]


def test_a_bearer_needs_the_scope_as_everywhere(beyond: Callable[..., Running], site: Site) -> None:
    owner, shop = site.ledger.add_key("owner", ["console"]), site.ledger.add_key("shop")
    server = beyond()
    assert server.client.get("/console/keys", headers={"authorization": f"Bearer {owner}"}).status_code == 200
    refused = server.client.get("/console/keys", headers={"authorization": f"Bearer {shop}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_missing")
    asked = server.client.post("/v1/completions", json=ASK, headers={"authorization": f"Bearer {owner}"})
    assert asked.status_code == 403


def test_a_key_is_given_the_console_by_name_only(site: Site) -> None:
    usual = site.ledger.find_key(site.ledger.add_key("shop"))
    named = site.ledger.find_key(site.ledger.add_key("owner", ["answer", "console"]))
    assert usual.scopes == {"answer", "feedback", "metrics"}
    assert named.scopes == {"answer", "console"}


def test_a_session_opens_the_api_for_the_page_alone(
    beyond: Callable[..., Running], site: Site, until: Callable[..., None]
) -> None:
    server = beyond()
    site.ledger.add_key("shop")
    sign_in(server, site.ledger.add_key("owner", ["console"]))
    assert server.client.get("/v1/models").status_code == 200
    assert server.client.post("/v1/completions", json=ASK).status_code == 403  # a page of another site, as it seems
    mine = token(server)
    assert server.client.post("/v1/completions", json=ASK, headers=mine).status_code == 200
    until(lambda: site.ledger.list_keys()[1]["today"]["requests"] == 1)  # it counts as the key's


@pytest.mark.parametrize(
    "headers", [
        {}, {"x-treadle-token": "wrong"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example.com"}, {"origin": "null"},
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_page_of_another_site_changes_nothing(site: Site, headers: dict[str, str], host: str) -> None:
    owner = site.ledger.add_key("owner", ["console"])
    site.ledger.add_key("shop")
    with console(site, host=host) as server:
        sign_in(server, owner)
        mine = token(server) if headers and "x-treadle-token" not in headers else {}
        for path, body in POSTS:
            refused = server.client.post(path, json=body, headers=mine | headers)
            assert refused.status_code == 403, path
        assert {key.name for key in site.ledger.live_keys()} == {"owner", "shop"}
        ours = token(server) | {"sec-fetch-site": "same-origin", "origin": server.url}
        assert server.client.post("/console/keys", json=NEW, headers=ours).status_code == 200
        assert {key.name for key in site.ledger.live_keys()} == {"owner", "shop", "new"}


def test_another_site_cannot_sign_a_browser_in(beyond: Callable[..., Running], site: Site) -> None:
    owner = site.ledger.add_key("owner", ["console"])
    server = beyond()
    for headers in ({"origin": "https://evil.example.com"}, {"sec-fetch-site": "cross-site"}):
        assert sign_in(server, owner, **headers).status_code == 403
    form = server.client.post("/console/login", data={"key": owner})
    assert form.status_code == 415


def test_wrong_keys_at_the_door_count_to_the_lock_out(beyond: Callable[..., Running], site: Site) -> None:
    owner = site.ledger.add_key("owner", ["console"])
    server = beyond("serve.lockout.wrong_keys=3")
    assert [sign_in(server, f"tk-{n}").status_code for n in range(4)] == [401, 401, 401, 429]
    refused = sign_in(server, owner)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "locked_out")
    assert [row["action"] for row in site.ledger.audit()].count("lock out") == 1


def test_signing_out_ends_the_session_on_the_servers_side(beyond: Callable[..., Running], site: Site) -> None:
    server = beyond()
    sign_in(server, site.ledger.add_key("owner", ["console"]))
    cookie = {"cookie": f"treadle-session={server.client.cookies['treadle-session']}"}
    assert server.client.get("/console/keys").status_code == 200
    assert server.client.post("/console/logout", json={}, headers=token(server)).status_code == 200
    assert "treadle-session" not in server.client.cookies
    assert server.client.get("/console/keys", headers=cookie).status_code == 401
    assert site.ledger.audit()[-1]["detail"] == {"by": "owner"}


def test_a_session_ends_with_its_key(beyond: Callable[..., Running], site: Site) -> None:
    server = beyond()
    site.ledger.add_key("other")
    sign_in(server, site.ledger.add_key("owner", ["console"]))
    assert server.client.get("/console/keys").status_code == 200
    site.ledger.revoke_key("owner")  # elsewhere, as by 'treadle key revoke'
    refused = server.client.get("/console/keys")
    assert refused.status_code == 401
    assert "'owner', which you signed in with" in refused.json()["error"]["message"]


def test_under_tls_the_cookie_is_for_tls_alone(site: Site) -> None:
    files = [str(site.project.folder / name) for name in ("cert.pem", "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True,
    )
    owner = site.ledger.add_key("owner", ["console"])
    with console(site, "serve.tls.certificate=cert.pem", "serve.tls.key=key.pem", host="0.0.0.0") as server:
        admitted = sign_in(server, owner, origin=server.url)
        cookie = admitted.headers["set-cookie"]
        assert cookie.startswith("__Host-treadle-session=")
        assert "Secure" in cookie.split("; ")
        assert server.client.get("/console/keys").status_code == 200


@pytest.mark.parametrize(
    ("given", "after"), [
        ("/console/runs", "/console/runs"), ("/console/compare?of=model-a&of=model-b", "/console/compare?of=model-a&of=model-b"),
        ("https://evil.example.com", "/console"), ("//evil.example.com", "/console"), ("/console//evil.example.com", "/console"),
        ("/v1/models", "/console"), ("/consoles", "/console"), ("javascript:alert(1)", "/console"), ("/console/\\evil", "/console"),
    ],
)
def test_after_signing_in_one_stays_here(
    beyond: Callable[..., Running], site: Site, given: str, after: str
) -> None:
    site.ledger.add_key("owner", ["console"])
    page = beyond().client.get("/console/login", params={"next": given}).text
    found = re.search(r'data-after="([^"]*)"', page)
    assert found
    assert found[1].replace("&amp;", "&") == after


def test_on_loopback_the_console_is_open_as_the_page_is(site: Site) -> None:
    site.ledger.add_key("owner", ["console"])
    with console(site) as server:
        assert server.client.get("/console").status_code == 200
        assert server.client.get("/console/login", follow_redirects=False).headers["location"] == "/console"
        assert server.client.get("/console", headers={"host": "evil.example.com"}).status_code == 421
        assert server.client.get("/console", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_where_only_the_package_was_brought_every_page_says_what_there_is_not(site: Site) -> None:
    ids = furnish(site)
    for name in ("corpus", "dataset", "one", "two", "card one", "card two"):
        shutil.rmtree(site.folder(ids[name]))
    with console(site) as server:
        told = {path: server.client.get(f"/console{path}") for path in PAGES}
    assert {path: answer.status_code for path, answer in told.items()} == dict.fromkeys(PAGES, 200)
    for path, words in (("/data", "No data has been prepared"), ("/runs", "No model was trained yet"), ("/cost", "No model was")):
        assert words in told[path].text


def test_treadle_serve_has_the_console(site: Site) -> None:
    command = [sys.executable, "-m", "treadle", "serve", "-f", str(site.project.folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = "".join(iter(process.stdout.readline, "}\n")) + "}"
        page = httpx.get(f"{json.loads(told)['url']}/console/keys")
        assert (page.status_code, "<h1>Keys</h1>" in page.text) == (200, True)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_server_without_a_console_has_none(serve: Callable[..., Running]) -> None:
    assert serve().client.get("/console").status_code == 404


def test_sessions_end_in_time_and_are_bounded() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)

    def asked(value: str) -> str | None:
        found = sessions.find(Headers({"cookie": f"a=b; treadle-session={value}"}), secure=False)
        return found.key if found else None

    first, session = sessions.begin("first")
    assert asked(first) == "first"
    assert asked("") is asked(first[:-1]) is asked("x" * 5000) is None
    assert sessions.find(Headers({"cookie": f"treadle-session={first}"}), secure=True) is None
    assert session.token not in (first, sessions.local)
    now = LIFE - 1
    assert asked(first) == "first"
    later = [sessions.begin(f"key {n}")[0] for n in range(MOST)]
    assert asked(first) is None  # the oldest made room
    assert [asked(value) for value in later] == [f"key {n}" for n in range(MOST)]
    now = 2 * LIFE
    assert asked(later[0]) is None
    assert len(set(later)) == MOST
