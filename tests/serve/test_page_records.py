"""The page of a model of records in a real browser: fill in, ask, say what was right; and what the ledger then holds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from every_input import PLACES, png, wave
from playwright.sync_api import Page, expect

Open = Callable[..., Page]
PHOTO: Any = {"name": "cloud.png", "mimeType": "image/png", "buffer": png(90)}
SOUND: Any = {"name": "wind.wav", "mimeType": "audio/wav", "buffer": wave(440)}
HEADS = ["rain", "millimetres", "cloud"]


def fill(page: Page, **values: str) -> None:
    """The two files, without which this model cannot answer, and ``values``."""
    page.get_by_label("photo", exact=True).set_input_files(PHOTO)
    page.get_by_label("sound", exact=True).set_input_files(SOUND)
    for column, value in values.items():
        field = page.get_by_label(column, exact=True)
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("Is it right?")).to_be_visible()


def test_fill_in_ask_rate_and_correct(sky: Any, open_page: Open, tmp_path: Path) -> None:
    page = open_page(sky.url)
    expect(page).to_have_title("sky · Treadle")
    assert page.locator(".input > label").all_inner_texts() == [
        "pressure", "sky", "place", "dry", "day", "note", "photo", "sound"
    ]
    assert page.get_by_label("sky", exact=True).locator("option").all_inner_texts()[0] == "missing"
    assert set(page.get_by_label("sky", exact=True).locator("option").all_inner_texts()[1:]) == {"blue", "grey", "black"}
    suggested = page.locator("#in-place-list option")  # too many to choose from: typed
    assert set(suggested.evaluate_all("options => options.map(option => option.value)")) <= set(PLACES)
    assert suggested.count() > 12
    given = {
        "pressure": "1009.5", "sky": "grey", "place": "place 3", "dry": "no", "day": "2026-03-14",
        "note": "clouds gather: bob@example.com",
    }
    fill(page, **given)
    shown = page.get_by_alt_text("The chosen photo")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth") == 64
    expect(page.locator("audio")).to_be_visible()
    page.get_by_role("switch", name="Keep this record").check()
    ask(page)
    files = {"photo": base64.b64encode(PHOTO["buffer"]).decode(), "sound": base64.b64encode(SOUND["buffer"]).decode()}
    told = sky.client.post("/v1/predict", json={"inputs": given | files}).json()["predictions"][0]["heads"]
    assert page.locator(".head h2").all_inner_texts() == HEADS
    answers = page.locator(".given").all_inner_texts()
    assert [answers[0], answers[2]] == [told["rain"]["answer"], told["cloud"]["answer"]]
    assert float(answers[1]) == pytest.approx(told["millimetres"]["answer"], rel=1e-3)
    shares = [float(text.rstrip("%")) for text in page.locator(".share").all_inner_texts()]
    wanted = [*told["rain"]["probabilities"].values(), *told["cloud"]["probabilities"].values()]
    assert shares == pytest.approx([100 * share for share in wanted], abs=0.11)
    page.get_by_role("button", name="Wrong").click()
    expect(page.get_by_text("Thank you. Noted.")).to_be_visible()
    page.get_by_role("button", name="The right answer is").click()
    page.locator("#right-rain").select_option("yes")
    page.locator("#right-millimetres").fill("2.5")
    page.locator("#right-cloud").select_option("nimbus")
    page.screenshot(path=tmp_path / "correct.png", full_page=True)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("The model can learn from it")).to_be_visible()
    id = page.locator(".verdict code").inner_text()
    kept = json.loads(sky.site.ledger.answer(id)["prompt"])
    assert kept["note"] == "clouds gather: <EMAIL>"
    assert kept["pressure"] == 1009.5
    said = [row for row in sky.site.ledger.all_feedback() if row["answer"] == id]
    assert [row["rating"] for row in said] == ["down", "down"]
    right = json.loads(said[-1]["edited"])
    assert (right["rain"], float(right["millimetres"]), right["cloud"]) == ("yes", 2.5, "nimbus")


def test_what_is_left_empty_is_missing_and_a_changed_record_has_no_answer_yet(sky: Any, open_page: Open) -> None:
    page = open_page(sky.url)
    fill(page)
    page.get_by_role("switch", name="Keep this record").check()
    ask(page)
    kept = json.loads(sky.site.ledger.answer(page.locator(".verdict code").inner_text())["prompt"])
    assert [kept[name] for name in ("pressure", "sky", "place", "day")] == [None] * 4
    page.get_by_label("sky", exact=True).select_option("black")
    expect(page.get_by_text("The answer will stand here")).to_be_visible()


def test_what_is_wrong_stands_beneath_its_field(sky: Any, open_page: Open, tmp_path: Path) -> None:
    page = open_page(sky.url, wanted="422")
    page.get_by_role("button", name="Ask").click()
    fault = page.get_by_role("alert")
    expect(fault).to_contain_text("no image (send its value: it cannot be missing)")
    expect(page.get_by_label("photo", exact=True)).to_be_focused()
    assert page.locator(".input", has=fault).locator("label").inner_text() == "photo"
    page.screenshot(path=tmp_path / "fault.png", full_page=True)
    page.get_by_label("photo", exact=True).set_input_files(
        {"name": "cloud.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    )
    expect(fault).to_have_count(0)
    page.get_by_role("button", name="Ask").click()
    expect(fault).to_contain_text("not an image")
    fill(page)
    ask(page)


def test_the_microphone_gives_a_recording(sky: Any, open_page: Open) -> None:
    page = open_page(sky.url)
    page.get_by_label("photo", exact=True).set_input_files(PHOTO)
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_role("button", name="Stop recording")).to_be_visible()
    page.wait_for_timeout(1500)  # as long as the recording is to be
    page.get_by_role("button", name="Stop recording").click()
    expect(page.locator("audio")).to_be_visible()
    ask(page)
    assert page.locator(".head h2").all_inner_texts() == HEADS


def test_a_microphone_that_is_not_there_is_told(sky: Any, open_page: Open) -> None:
    page = open_page(sky.url)
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('none')); }")
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_role("alert")).to_contain_text("The microphone cannot be used")


def test_the_keyboard_reaches_everything(sky: Any, open_page: Open) -> None:
    page = open_page(sky.url)
    fill(page)
    page.get_by_label("pressure", exact=True).focus()
    reached = ["in-pressure"]
    while reached[-1] != "keep" and len(reached) < 40:
        page.keyboard.press("Tab")
        here = page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        reached += [here] if here != reached[-1] else []
    fields = [f"in-{name}" for name in ("pressure", "sky", "place", "dry", "day", "note", "photo", "sound")]
    assert [name for name in reached if name in (*fields, "Record", "Ask", "keep")] == [*fields, "Record", "Ask", "keep"]
    page.get_by_label("pressure", exact=True).press("Enter")
    expect(page.get_by_text("Is it right?")).to_be_visible()
    page.get_by_role("button", name="Right", exact=True).press("Space")
    expect(page.get_by_role("button", name="Right", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="The right answer is").press("Enter")
    expect(page.get_by_text("This record was not kept")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_form_fits_a_phone_and_a_desk_in_light_and_dark(
    sky: Any, open_page: Open, tmp_path: Path, width: int, scheme: str
) -> None:
    page = open_page(sky.url, width, scheme)
    fill(page, pressure="1009.5", sky="grey", day="2026-03-14", note="clouds gather")
    ask(page)
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
