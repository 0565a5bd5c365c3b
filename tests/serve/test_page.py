"""The page in a real browser: write, stream, stop, rate, edit; and what the ledger then holds."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from treadle.serve import engine, site

VENDOR = Path(site.__file__).with_name("page") / "vendor"


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens come at a pace at which a person could press Stop."""
    real = engine.Engine._read

    def read(*given: Any) -> Any:
        time.sleep(0.02)
        return real(*given)

    monkeypatch.setattr(engine.Engine, "_read", read)


def answer_of(page: Page) -> str:
    return page.get_by_label("Answer", exact=True).text_content() or ""


def id_of(page: Page) -> str:
    return page.locator(".verdict code").inner_text()


def test_write_stream_rate_and_edit(
    serve: Callable[..., Any], open_page: Callable[..., Page], slowly: None, tmp_path: Path
) -> None:
    running = serve()
    page = open_page(running.url)
    expect(page).to_have_title("tiny · Treadle")
    expect(page.get_by_role("heading", name="tiny")).to_be_visible()
    expect(page.get_by_text("version 1")).to_be_visible()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Longest answer").fill("40")
    page.get_by_role("switch", name="Keep this text").check()
    prompt = "mail = 'alice@example.com'\ndef f"
    page.get_by_label("Your text").fill(prompt)
    page.get_by_label("Your text").press("Control+Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_label("Answer", exact=True)).not_to_be_empty()
    early = answer_of(page)
    expect(page.get_by_text("40 tokens")).to_be_visible()
    text = answer_of(page)
    assert text.startswith(early)
    assert len(early) < len(text)
    assert text == running.complete(prompt, max_tokens=40, temperature=0).json()["choices"][0]["text"]
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_text("Thank you")).to_be_visible()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Edit the answer").click()
    expect(page.get_by_label("What the answer should have been")).to_be_focused()
    page.get_by_label("What the answer should have been").fill("(x): return 'bob@example.com'")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("1 secret or personal detail in it was replaced")).to_be_visible()
    page.screenshot(path=tmp_path / "edited.png", full_page=True)
    row = running.site.ledger.answer(id_of(page))
    assert (row["prompt"], row["text"], row["stored"]) == ("mail = '<EMAIL>'\ndef f", text, True)
    said = [(row["answer"], row["rating"], row["edited"]) for row in running.site.ledger.all_feedback()]
    assert said == [(id_of(page), "up", None), (id_of(page), "up", "(x): return '<EMAIL>'")]


def test_stop_keeps_what_came_and_frees_the_slot(
    serve: Callable[..., Any], open_page: Callable[..., Page], slowly: None, until: Callable[..., None]
) -> None:
    running = serve()
    page = open_page(running.url)
    page.get_by_label("Longest answer").fill("900")
    page.get_by_label("Your text").fill("def f")
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_label("Answer", exact=True)).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Complete")).to_be_visible()
    until(lambda: not running.live.busy)
    until(lambda: running.site.ledger.answer(id_of(page)))
    row = running.site.ledger.answer(id_of(page))
    assert (row["finish_reason"], row["text"], row["answer_tokens"] < 900) == ("cancelled", None, True)
    expect(page.locator(".tally")).to_have_text(re.compile(r"^[1-9]\d* tokens? in [\d.]+ s, stopped\.$"))
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_text("Thank you")).to_be_visible()
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_text("Taken back")).to_be_visible()
    assert [row["rating"] for row in running.site.ledger.all_feedback()] == ["down", None]
    page.get_by_role("button", name="Edit the answer").click()
    expect(page.get_by_text("This answer was not kept")).to_be_visible()
    before = answer_of(page)
    page.get_by_role("button", name="Add to text").click()
    expect(page.get_by_label("Your text")).to_have_value("def f" + before)


def test_a_press_on_stop_that_comes_too_late_begins_nothing(
    serve: Callable[..., Any], open_page: Callable[..., Page], slowly: None, until: Callable[..., None]
) -> None:
    running = serve()
    page = open_page(running.url)
    page.get_by_label("Longest answer").fill("5")
    same = page.evaluate("""async () => {
      document.querySelector(".bar .primary").click();
      while (!document.querySelector(".stop")) await new Promise(requestAnimationFrame);
      const stop = document.querySelector(".stop");
      while (document.querySelector(".stop")) await new Promise(requestAnimationFrame);
      const complete = document.querySelector(".bar .primary");
      complete.click();
      return stop === complete;
    }""")
    assert not same  # one button that changed would fade from the colours of the other
    expect(page.get_by_text("How was it?")).to_be_visible()
    assert running.site.ledger.totals()["answers"] == 1

    def again() -> int:
        page.get_by_role("button", name="Complete").click()
        return page.get_by_role("button", name="Stop").count()

    until(again)


def test_nothing_shows_through_an_answer_to_no_text(serve: Callable[..., Any], open_page: Callable[..., Page]) -> None:
    page = open_page(serve("serve.max_tokens=5000").url)
    assert page.get_by_label("Longest answer").get_attribute("max") == "1024"  # the model's context
    expect(page.get_by_label("Your text")).to_have_attribute("placeholder", re.compile("Begin"))
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_text("How was it?")).to_be_visible()
    expect(page.get_by_label("Your text")).to_have_attribute("placeholder", "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(
    serve: Callable[..., Any], open_page: Callable[..., Page], tmp_path: Path, width: int, scheme: str
) -> None:
    page = open_page(serve().url, width, scheme)
    page.get_by_label("Longest answer").fill("60")
    code = "import json\n\n\ndef read_records(path):\n    with open(path) as stream:\n        "
    page.get_by_label("Your text").fill(code + "x" * 300)
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_text("How was it?")).to_be_visible()
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The answer goes on exactly where the text field's own text ends: both wrap alike.
    heights = page.evaluate("['#prompt', '.copy'].map(name => document.querySelector(name).scrollHeight)")
    assert heights[0] <= heights[1]
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(serve: Callable[..., Any], open_page: Callable[..., Page]) -> None:
    page = open_page(serve().url)
    expect(page.get_by_label("Your text")).to_be_focused()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"))
    assert [name.split()[0] for name in reached] == ["Complete", "Temperature", "Longest", "Keep"]


@pytest.mark.parametrize(("policy", "switches", "told"), [("never", 0, 0), ("always", 0, 1), ("consent", 1, 0)])
def test_consent_is_asked_for_only_where_it_matters(
    serve: Callable[..., Any], open_page: Callable[..., Page], policy: str, switches: int, told: int
) -> None:
    page = open_page(serve(f"serve.store={policy}").url)
    expect(page.get_by_label("Temperature")).to_be_visible()
    assert page.get_by_role("switch").count() == switches
    assert page.get_by_text("This server keeps texts").count() == told


def test_failures_are_told_in_words(serve: Callable[..., Any], open_page: Callable[..., Page]) -> None:
    running = serve()
    page = open_page(running.url, wanted="503")
    expect(page.get_by_role("button", name="Complete")).to_be_visible()
    running.live.draining = True
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_role("alert")).to_contain_text("the server is stopping")
    running.live.draining = False
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_text("How was it?")).to_be_visible()
    assert page.get_by_role("alert").count() == 0


def test_a_prompt_over_the_context_is_cut_and_that_is_told(serve: Callable[..., Any], open_page: Callable[..., Page]) -> None:
    page = open_page(serve().url)
    page.get_by_label("Your text").fill("import re\n" * 400)
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_text(re.compile(r"the first \d+ tokens of your text were left out"))).to_be_visible()


def test_a_key_is_asked_for_and_kept_in_the_tab_only(serve: Callable[..., Any], open_page: Callable[..., Page], site: Any) -> None:
    key = site.ledger.add_key("browser")
    page = open_page(serve(host="0.0.0.0").url, wanted="401")
    page.get_by_label("Key").fill("tk-wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("the key is not known")).to_be_visible()
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_text("How was it?")).to_be_visible()
    assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]


def test_vendored_files_are_those_that_are_named() -> None:
    table = (VENDOR / "VENDORED.md").read_text()
    for file in VENDOR.glob("*.js"):
        assert f"| {file.name} |" in table
        assert hashlib.sha256(file.read_bytes()).hexdigest() in table
        assert (VENDOR / f"{file.name.split('.')[0]}.LICENSE.txt").exists()
