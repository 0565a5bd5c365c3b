"""Script in prompts, answers, edits, records and the names that a model knows: the pages show it as text, in a real browser."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from shops import row, shop_site
from sites import Running, running

Open = Callable[..., Page]
SCRIPT = "<script>window.hit = 1</script>"
IMAGE = "<img src=x onerror='window.hit = 1'>"
WORDS = f'{SCRIPT}{IMAGE}"\'><svg onload=window.hit=1>javascript:window.hit=1</textarea></output>'


def untouched(page: Page) -> None:
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main svg[onload], main script").count() == 0


def test_prompts_answers_and_edits(shared: Any, open_page: Open) -> None:
    page = open_page(shared.url)

    def held(route: Route) -> None:  # the model itself is made to write script: an answer held to one choice
        body = json.loads(route.request.post_data or "{}")
        route.continue_(post_data=json.dumps({**body, "structured_outputs": {"choice": [WORDS]}, "max_tokens": 400}))

    page.route("**/v1/completions", held)
    page.get_by_label("Your text").fill(WORDS)
    page.get_by_role("switch", name="Keep this text").check()
    page.get_by_role("button", name="Complete").click()
    expect(page.get_by_label("Answer", exact=True)).to_have_text(WORDS)
    page.get_by_role("button", name="Edit the answer").click()
    page.get_by_label("What the answer should have been").fill(WORDS + " edited")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("The model can learn from your version")).to_be_visible()
    page.get_by_role("button", name="Edit again").click()
    expect(page.get_by_label("What the answer should have been")).to_have_value(WORDS + " edited")
    untouched(page)
    kept = shared.site.ledger.all_feedback()[-1]
    assert (kept["text"], kept["edited"]) == (WORDS, WORDS + " edited")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model that has learned names that are script."""
    with shop_site(tmp_path_factory.mktemp("shop"), (SCRIPT, IMAGE)) as site, running(site, (), "127.0.0.1") as server:
        yield server


def test_the_names_that_a_model_knows(shop: Running, open_page: Open) -> None:
    page = open_page(shop.url)
    expect(page.get_by_role("button", name="Ask")).to_be_visible()
    assert SCRIPT in (page.text_content("body") or "")
    page.get_by_label("note").fill(WORDS)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("Is it right?")).to_be_visible()
    untouched(page)


def test_the_page_of_the_api(shop: Running, open_page: Open) -> None:
    page = open_page(shop.url)
    page.goto(f"{shop.url}/docs")
    record = page.get_by_role("region", name="POST /v1/predict").get_by_role("row", name="inputs needed")
    record.get_by_text("its fields").first.click()
    expect(record).to_contain_text(json.dumps(SCRIPT))
    untouched(page)


def test_errors_that_tell_what_was_sent(shop: Running, open_page: Open) -> None:
    page = open_page(shop.url, wanted="422")
    body = json.dumps({"inputs": {**row(random.Random(1)), IMAGE: 1}})
    page.route("**/v1/predict", lambda route: route.continue_(post_data=body))
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text(IMAGE)
    untouched(page)
    assert page.evaluate("document.querySelector('[role=alert] img')") is None
