"""What a person does at the console, with a real browser: judge answers, vote blind, give out keys, sign in."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consoles import HOSTILE, answered, console
from every_input import project_with_every_input, row
from playwright.sync_api import Page, expect
from shops import shop_site
from sites import Running, Site

from treadle.data.schema import Schema
from treadle.model.network import load_network, make_network, save_network
from treadle.store.ledger import Ledger
from treadle.store.tables import keys, now

Open = Callable[..., Page]


@pytest.fixture
def served(site: Site) -> Iterator[Running]:
    with console(site) as server:
        yield server


def opened(open_page: Open, server: Running, path: str, **how: Any) -> Page:
    page = open_page(server.url, **how)
    page.goto(f"{server.url}/console{path}")
    return page


def said(ledger: Ledger) -> list[tuple[str, str | None, str | None]]:
    return [(one["answer"], one["rating"], one["edited"]) for one in ledger.all_feedback()]


# -- the queue --------------------------------------------------------------------------------------------------------


def test_answers_are_judged_by_the_keyboard_alone(served: Running, open_page: Open) -> None:
    ledger = served.site.ledger
    for name in ("old", "middle", "new"):
        answered(served.site, f"cmpl-{name}", f"def {name}(", "\n  x = 1\n")
    ledger.record_feedback("cmpl-middle", "up", None)  # has been judged
    ledger.record_answer(
        id="cmpl-private", version=1, package=served.site.packages[0], stored=False, prompt=None, text=None, settings={},
        prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
    )
    page = opened(open_page, served, "/feedback")
    assert page.locator(".answer").evaluate_all("all => all.map(e => e.dataset.id)") == ["cmpl-new", "cmpl-old"]
    page.keyboard.press("u")  # nothing is chosen yet
    page.keyboard.press("j")
    expect(page.locator(".answer").first).to_be_focused()
    page.keyboard.press("u")
    expect(page.get_by_role("status")).to_have_text("Answer 1: Good. Noted.")
    page.keyboard.press("j")
    page.keyboard.press("d")
    expect(page.get_by_role("status")).to_have_text("Answer 2: Bad. Noted.")
    page.keyboard.press("e")
    draft = page.locator(".answer").nth(1).get_by_label("What the answer should have been")
    expect(draft).to_be_focused()
    expect(draft).to_have_value("\n  x = 1\n")  # to the letter, the first line break included
    page.keyboard.press("Control+A")
    page.keyboard.type("judge (keys are letters here): alice@example.com")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_have_text("Answer 2: Corrected. The model can learn from it.")
    expect(page.locator(".answer").nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator(".answer").first).to_have_attribute("aria-current", "true")
    page.keyboard.press("u")  # again: taken back
    expect(page.get_by_role("status")).to_have_text("Answer 1: Taken back.")
    corrected = "judge (keys are letters here): <EMAIL>"
    assert said(ledger)[1:] == [
        ("cmpl-new", "up", None), ("cmpl-old", "down", None), ("cmpl-old", "down", corrected), ("cmpl-new", None, None),
    ]
    entries = [entry["detail"] for entry in ledger.audit() if entry["action"] == "label"]
    assert entries[0] == {"answer": "cmpl-new", "rating": "up", "edited": False, "by": "this machine"}
    assert len(entries) == 4
    page.reload()
    expect(page.get_by_text("Nothing waits")).to_be_visible()


def test_the_keys_can_be_switched_off(served: Running, open_page: Open) -> None:
    answered(served.site, "cmpl-a", "x", "y")
    page = opened(open_page, served, "/feedback")
    page.get_by_label("Keys:").uncheck()
    page.locator("main").focus()
    page.keyboard.press("j")
    page.keyboard.press("u")
    page.get_by_role("button", name="Bad").click()
    expect(page.get_by_role("status")).to_contain_text("Bad")
    assert said(served.site.ledger) == [("cmpl-a", "down", None)]


def test_a_long_queue_is_shown_in_parts(served: Running) -> None:
    for number in range(30):
        answered(served.site, f"cmpl-{number:02}", "x", "y")
    first, second = (
        re.findall(r'data-id="(cmpl-\d+)"', served.client.get(f"/console/feedback{skip}").text) for skip in ("", "?skip=25")
    )
    assert (len(first), len(second)) == (25, 5)
    assert first + second == [f"cmpl-{number:02}" for number in reversed(range(30))]


def test_what_is_not_true_of_an_answer_is_told(served: Running, open_page: Open) -> None:
    answered(served.site, "cmpl-a", "x", "y")
    page = opened(open_page, served, "/feedback", wanted="404")
    page.locator(".answer").evaluate("e => { e.dataset.id = 'cmpl-nowhere' }")
    page.get_by_role("button", name="Good").click()
    expect(page.get_by_role("alert")).to_contain_text("there is no answer 'cmpl-nowhere'")
    expect(page.get_by_role("button", name="Good")).to_have_attribute("aria-pressed", "false")


def test_records_are_labelled_by_choice(tmp_path: Path, open_page: Open) -> None:
    project, store, ledger, id = project_with_every_input(tmp_path / "sky")
    with console(Site(project, store, ledger, (id, id, id))) as server:
        given = {name: value for name, value in row(random.Random(1)).items() if name not in ("rain", "millimetres", "cloud")}
        asked = server.client.post("/v1/predict", json={"inputs": given, "store": True}).json()["predictions"][0]
        page = opened(open_page, server, "/feedback")
        assert page.get_by_alt_text("photo: a picture of 64 by 64 pixels").evaluate("e => e.naturalWidth") == 64
        page.get_by_label("sound: a recording of 8.0 kB").evaluate("e => e.play()")
        page.wait_for_function("document.querySelector('audio').duration === 0.5")
        expect(page.locator(".pairs").first).to_contain_text(str(given["day"]))
        page.keyboard.press("j")
        page.keyboard.press("e")
        choice = page.get_by_label("The right answer: cloud")
        other = next(name for name in ("cirrus", "nimbus") if name != asked["heads"]["cloud"]["answer"])
        choice.select_option(other)
        page.get_by_label("The right answer: millimetres").fill("3.5")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status")).to_contain_text("Corrected")
        ((answer, rating, edited),) = said(ledger)
        assert (answer, rating) == (asked["id"], None)
        rain = asked["heads"]["rain"]["answer"]
        assert json.loads(edited or "") == {"rain": rain, "millimetres": 3.5, "cloud": other}
    ledger.close()


# -- the playground ---------------------------------------------------------------------------------------------------


def ask_both(page: Page, prompt: str = "def f") -> None:
    page.get_by_label("Your text").fill(prompt)
    page.get_by_label("Longest answer").fill("8")
    page.get_by_label("Your text").press("Control+Enter")
    expect(page.get_by_role("heading", name="Left")).to_be_focused()


def test_two_temperatures_are_voted_on_blind_and_then_told(served: Running, open_page: Open) -> None:
    page = opened(open_page, served, "/playground", wanted="404")
    expect(page.get_by_text("Version 1 alone answers")).to_be_visible()
    page.get_by_label("First temperature").fill("0")
    page.get_by_label("Second temperature").fill("1.5")
    ask_both(page)
    assert "temperature" not in page.locator("#sides").inner_text()
    page.keyboard.press("1")
    expect(page.get_by_role("status")).to_contain_text("Filed as feedback")
    left, right = (page.locator(f"[data-whose={side}]").inner_text() for side in ("left", "right"))
    assert {left, right} == {"version 1, temperature 0", "version 1, temperature 1.5"}
    ledger = served.site.ledger
    rated = {rating: ledger.answer(answer)["settings"]["temperature"] for answer, rating, _ in said(ledger)}
    assert f"version 1, temperature {rated['up']:g}" == left
    assert f"version 1, temperature {rated['down']:g}" == right
    page.keyboard.press("2")  # one vote is one vote
    expect(page.get_by_role("button", name="Right is better")).to_be_disabled()
    assert len(said(ledger)) == 2
    greedy = page.locator("[data-side=left] mark" if left.endswith(" 0") else "[data-side=right] mark").inner_text()
    alone = served.complete("def f", max_tokens=8, temperature=0).json()["choices"][0]["text"]
    assert greedy.strip() == alone.strip()


def test_chance_chooses_the_sides(served: Running, open_page: Open) -> None:
    page = opened(open_page, served, "/playground", wanted="404")
    expect(page.get_by_text("alone answers")).to_be_visible()
    found: Counter[str] = Counter()
    for turn in range(12):
        ask_both(page, f"x{turn} = ")
        page.get_by_role("button", name="Both are bad").click()
        expect(page.locator("[data-whose=left]")).not_to_be_empty()
        found[page.locator("[data-whose=left]").inner_text()] += 1
    assert len(found) == 2  # all on one side: 1 of 2,048 times
    assert {rating for _, rating, _ in said(served.site.ledger)} == {"down"}


def test_two_versions_are_asked_by_number(served: Running, open_page: Open) -> None:
    asked = []
    ledger, package = served.site.ledger, served.site.packages[1]
    ledger.record_artifact({"id": package, "kind": "package", "counts": {}, "parents": []})
    ledger.start_rollout("ab", package, "to see", 0.5)
    end = time.monotonic() + 20
    while served.live.beside is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    page = open_page(served.url)
    page.on("request", lambda r: asked.append(r.headers.get("x-treadle-version")) if "/v1/completions" in r.url else None)
    page.goto(f"{served.url}/console/playground")
    expect(page.get_by_label("First version")).to_have_value(re.compile("[12]"))
    assert {page.get_by_label(f"{side} version").input_value() for side in ("First", "Second")} == {"1", "2"}
    expect(page.get_by_label("Second temperature")).to_be_hidden()
    ask_both(page)
    assert sorted(asked) == ["1", "2"]
    page.get_by_label("What is compared").select_option("two temperatures")
    expect(page.get_by_label("First version")).to_be_hidden()
    ask_both(page)
    assert asked[2:] == [None, None]
    ledger.stop_rollout("seen")


def test_versions_of_a_model_of_records_are_compared_blind(tmp_path: Path, open_page: Open) -> None:
    with shop_site(tmp_path) as site, console(site) as server:
        page = opened(open_page, server, "/playground")
        expect(page.get_by_text("nothing to compare it with")).to_be_visible()
        expect(page.get_by_role("button", name="Ask both")).to_be_disabled()
        begin_other(server)
        page.reload()
        expect(page.get_by_label("Second version")).to_have_value(re.compile("[12]"))
        page.get_by_label("price").fill("12.5")
        page.get_by_label("colour").select_option("blue")
        page.get_by_label("sold").select_option("yes")
        page.get_by_label("day").fill("2026-01-12")
        page.get_by_label("note").fill("as new")
        asked: list[Any] = []

        def note(request: Any) -> None:
            if "/v1/predict" in request.url:
                asked.append((request.headers["x-treadle-version"], request.post_data_json))

        page.on("request", note)
        page.get_by_label("note").press("Control+Enter")
        expect(page.get_by_role("heading", name="Left")).to_be_focused()
        assert sorted(version for version, _ in asked) == ["1", "2"]
        sent = asked[0][1]["inputs"]
        known = {"price": "12.5", "colour": "blue", "sold": "yes", "day": "2026-01-12", "note": "as new"}
        assert sent == {**known, "words": None, "past": None}
        for side in ("left", "right"):
            heads = re.findall(r"^\w+", page.locator(f"[data-side={side}]").inner_text(), re.M)
            assert heads == ["kind", "weight", "parts", "returned"]
        page.keyboard.press("2")
        expect(page.get_by_role("status")).to_contain_text("Filed as feedback")
        left, right = (page.locator(f"[data-whose={side}]").inner_text() for side in ("left", "right"))
        assert {left, right} == {"version 1", "version 2"}
        rated = {rating: site.ledger.answer(answer)["version"] for answer, rating, _ in said(site.ledger)}
        assert (f"version {rated['down']}", f"version {rated['up']}") == (left, right)


def begin_other(server: Running) -> None:
    """Put a network of other weights beside the live one."""
    site = server.site
    live = site.folder(site.ledger.live()["package"])
    network, schema = load_network(live), Schema.load(live)
    id = site.store.identify("package", [], {"other": True}, 1)
    with site.store.create(id, parents=[], config={"other": True}, version=1, seed=1) as draft:
        save_network(make_network(network.spec, schema.layouts, 1), draft.path)
        schema.save(draft.path)
    site.ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})
    site.ledger.start_rollout("ab", id, "to see", 0.5)
    end = time.monotonic() + 20
    while server.live.beside is None:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("choice", "ratings"), [("right", ["down", "up"]), ("both", ["up", "up"]), ("neither", ["down", "down"])])
def test_a_vote_is_filed_as_feedback_of_both(served: Running, choice: str, ratings: list[str]) -> None:
    ids = [served.complete("x", max_tokens=2).json()["id"] for _ in range(2)]
    mine = page_token(served)
    body = {"left": ids[0], "right": ids[1], "choice": choice}
    told = served.client.post("/console/playground/vote", json=body, headers=mine).json()
    assert [told[side]["version"] for side in ("left", "right")] == [1, 1]
    assert said(served.site.ledger) == [(id, rating, None) for id, rating in zip(ids, ratings, strict=True)]
    for wrong, status in (({"right": "cmpl-nowhere"}, 404), ({"right": ids[0]}, 400), ({"choice": "mine"}, 400)):
        assert served.client.post("/console/playground/vote", json=body | wrong, headers=mine).status_code == status
    assert len(said(served.site.ledger)) == 2
    assert served.site.ledger.audit()[-1]["detail"] == {**body, "by": "this machine"}


def page_token(server: Running) -> dict[str, str]:
    found = re.search(r'<meta name="token" content="([^"]+)">', server.client.get("/console/keys").text)
    assert found
    return {"x-treadle-token": found[1]}


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_shown_once_used_and_revoked(served: Running, open_page: Open) -> None:
    ledger = served.site.ledger
    page = opened(open_page, served, "/keys")
    page.get_by_label("Who will use it").fill("shop")
    page.get_by_label("metrics: read").uncheck()
    page.get_by_label("Until").fill("30 days")
    page.get_by_label("Own limits").fill("requests_per_minute=60\n\nconcurrent=none\n")
    page.get_by_label("Who will use it").press("Enter")
    secret = page.get_by_label("Key of shop")
    expect(secret).to_be_focused()
    made = ledger.find_key(secret.input_value())
    assert (made.name, made.scopes) == ("shop", {"answer", "feedback"})
    assert made.limits == {"requests_per_minute": 60, "concurrent": None}
    assert made.expires is not None
    shown = secret.input_value()
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("row", name="shop")).to_contain_text("requests_per_minute: 60; concurrent: none")
    assert shown not in page.content()
    page.get_by_role("button", name="Revoke shop").press("Enter")
    expect(page.get_by_role("dialog", name="Revoke the key of shop?")).to_be_visible()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    assert ledger.find_key(shown) is not None
    page.get_by_role("button", name="Revoke shop").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("row", name="shop")).to_contain_text("revoked")
    assert page.get_by_role("button", name="Revoke shop").count() == 0
    assert ledger.find_key(shown) is None
    actions = [(entry["action"], entry["detail"].get("by")) for entry in ledger.audit() if "key" in entry["action"]]
    assert actions == [
        ("add key", None), ("add key at console", "this machine"), ("revoke key", None), ("revoke key at console", "this machine"),
    ]
    assert shown not in str([dict(entry) for entry in ledger.audit()])


@pytest.mark.parametrize(
    ("field", "value", "words"), [
        ("Until", "yesterday", "'yesterday' is no moment to come"), ("Own limits", "speed=3", "there is no such limit"),
        ("Own limits", "money_per_day=1", "they have no price"), ("Who will use it", "a<b>", "'a<b>' cannot name a key"),
    ],
)
def test_what_is_wrong_with_a_new_key_is_told(served: Running, open_page: Open, field: str, value: str, words: str) -> None:
    page = opened(open_page, served, "/keys", wanted="400")
    page.get_by_label("Who will use it").fill("shop")
    page.get_by_label(field).fill(value)
    page.get_by_role("button", name="Add the key").click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("alert")).not_to_contain_text("--")
    assert served.site.ledger.all_keys() == []


# -- signing in, and text of others -----------------------------------------------------------------------------------


def test_one_signs_in_works_and_signs_out(site: Site, open_page: Open) -> None:
    owner = site.ledger.add_key("owner", ["console"])
    answered(site, "cmpl-a", "x", "y")
    with console(site, host="0.0.0.0") as server:
        page = open_page(server.url, wanted="Failed to load resource")
        page.goto(f"{server.url}/console/feedback?skip=0")
        expect(page.get_by_label("Key")).to_be_focused()
        page.keyboard.type("tk-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("the key is not known")
        page.keyboard.type(owner)  # over what is marked
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Feedback", level=1)).to_be_visible()
        assert page.url.endswith("/console/feedback?skip=0")
        assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
        page.keyboard.press("j")
        page.keyboard.press("u")
        expect(page.get_by_role("status")).to_contain_text("Good. Noted.")
        assert said(site.ledger) == [("cmpl-a", "up", None)]
        page.goto(f"{server.url}/console/playground")
        expect(page.get_by_text("alone answers")).to_be_visible()
        ask_both(page)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        page.goto(f"{server.url}/console/keys")
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_nothing_runs_that_a_prompt_a_model_or_feedback_says(served: Running, open_page: Open) -> None:
    ledger = served.site.ledger
    answered(served.site, "cmpl-a", HOSTILE, HOSTILE)
    answered(served.site, "cmpl-b", "x", "y")
    ledger.record_feedback("cmpl-b", "down", HOSTILE)
    with ledger._write() as connection:  # a name that no key of ours can have
        hostile = {"name": HOSTILE[:80], "scopes": HOSTILE[:80], "sha256": "0" * 64, "at": now(), "limits": {}}
        connection.execute(keys.insert(), hostile)
    page = opened(open_page, served, "/feedback", wanted="404")
    expect(page.locator(".said mark")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Correct").click()
    expect(page.get_by_label("What the answer should have been")).to_have_value(HOSTILE)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("Corrected")
    assert page.evaluate("window.hit") is None
    page.goto(f"{served.url}/console/lineage?id=cmpl-b")
    expect(page.locator(".facts").first).to_contain_text("edited: ")
    page.goto(f"{served.url}/console/keys")
    expect(page.locator("tbody th")).to_have_text(HOSTILE[:80])
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE[:80])
    page.get_by_role("button", name="Keep it").click()
    page.goto(f"{served.url}/console/playground")
    ask_both(page, HOSTILE)
    expect(page.locator("[data-side=left] .asked")).to_have_text(HOSTILE)
    assert page.evaluate("window.hit") is None
