"""The API's page in a real browser: every route, by keyboard, light and dark, narrow and wide, with nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from treadle.serve.openapi import ROUTES

Open = Callable[..., Page]


def manual(open_page: Open, running: Any, *how: Any, **more: Any) -> Page:
    page = open_page(running.url, *how, **more)
    page.goto(f"{running.url}/docs")
    return page


def test_every_route_is_shown_with_its_fields(shared: Any, open_page: Open) -> None:
    page = manual(open_page, shared)
    expect(page).to_have_title("API of tiny · Treadle")
    for route in ROUTES:
        expect(page.get_by_role("region", name=f"{route.method.upper()} {route.path} {route.what}")).to_have_count(1)
    completions = page.get_by_role("region", name="POST /v1/completions")
    expect(completions.get_by_role("cell", name="temperature", exact=True)).to_be_visible()
    expect(completions).to_contain_text("integer from 1 to 1000 or null")
    expect(completions).to_contain_text("the scope answer")
    completions.get_by_text("What is refused").click()
    expect(completions.get_by_role("cell", name="413", exact=True)).to_be_visible()
    completions.get_by_text("Example").click()
    expect(completions.locator("pre")).to_contain_text(f"curl {shared.url}/v1/completions")
    expect(completions.locator("pre")).to_contain_text('"model": "tiny"')
    messages = page.get_by_role("region", name="POST /v1/chat/completions").get_by_role("row", name="messages needed")
    messages.get_by_text("its fields").first.click()
    expect(messages.get_by_role("cell", name="role needed")).to_be_visible()


def test_a_model_of_records_shows_its_columns_and_their_choices(sky: Any, open_page: Open) -> None:
    page = manual(open_page, sky)
    predict = page.get_by_role("region", name="POST /v1/predict")
    inputs = predict.get_by_role("row", name="inputs needed")
    inputs.get_by_text("its fields").first.click()
    expect(inputs.get_by_role("cell", name="pressure needed")).to_be_visible()
    for choice in ("black", "blue", "grey"):
        expect(inputs.get_by_role("row", name="sky needed")).to_contain_text(f'"{choice}"')


def test_it_is_used_by_keyboard(shared: Any, open_page: Open) -> None:
    page = manual(open_page, shared)
    expect(page.get_by_role("link", name="/v1/feedback")).to_be_visible()
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 24)"))
        if page.evaluate("document.activeElement.tagName === 'SUMMARY'"):
            break
    assert {route.path for route in ROUTES} <= reached
    assert page.evaluate("document.activeElement.parentElement.open") is False
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(shared: Any, open_page: Open, width: int, scheme: str, tmp_path: Path) -> None:
    page = manual(open_page, shared, width, scheme)
    expect(page.get_by_role("region", name="POST /v1/feedback")).to_be_visible()
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.screenshot(path=tmp_path / "docs.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.querySelector('section'))"
    ink, paper = (page.evaluate(f"{style}.{name}") for name in ("color", "backgroundColor"))
    assert contrast(ink, paper) > 7


def contrast(one: str, other: str) -> float:
    """Of two colours ``rgb(r, g, b)``: WCAG 2, relative luminance."""
    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_beyond_loopback_it_asks_for_the_key(serve: Callable[..., Any], site: Any, open_page: Open) -> None:
    key = site.ledger.add_key("a")
    running = serve(host="0.0.0.0")
    page = manual(open_page, running, wanted="401")
    expect(page.get_by_role("alert")).to_contain_text("a key is needed")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("region", name="POST /v1/completions")).to_contain_text("Needs a key with the scope answer")
