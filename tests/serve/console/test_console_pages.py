"""Every page of the console in a real browser: it opens, loads nothing from elsewhere, runs nothing that users wrote, and can be
used by keyboard and screen reader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consoles import HOSTILE, PAGES, STATUS, answered, console, copied, furnish, train
from playwright.sync_api import Page, Route, expect
from sites import Running

Template = tuple[Path, tuple[str, str, str]]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def team(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A furnished project with its console, which the tests of this module leave as it is; and its artifacts' ids."""
    with copied(template, tmp_path_factory.mktemp("team") / "project") as site:
        ids = furnish(site)
        train(site)
        answered(site, "cmpl-hostile", HOSTILE, HOSTILE)
        answered(site, "cmpl-plain", "def f(x):\n    ", "return x\n")
        site.ledger.add_key("shop", limits={"requests_per_minute": 60})
        with console(site, "serve.price.tokens=0.02") as server:
            yield server, ids


@pytest.fixture
def visit(team: tuple[Running, dict[str, str]], open_page: Open) -> Callable[..., Page]:
    """Opens the page at an address below /console; ``/v1/status`` gives the document that was recorded."""
    server, _ = team

    def go(path: str, width: int = 1280, scheme: Any = "light") -> Page:
        page = open_page(server.url, width, scheme, wanted="400 (Bad Request)" if "v9" in path else "")
        page.route("**/v1/status", lambda route: route.fulfill(body=json.dumps(STATUS), content_type="application/json"))
        page.goto(f"{server.url}/console{path}")
        return page

    return go


def paths(ids: dict[str, str]) -> list[str]:
    """Of every kind of page one, and of some several."""
    compared = f"/compare?of={ids['one']}&of={ids['two']}"
    return [*PAGES, f"/runs/{ids['two']}", compared, "/data?aside=1", "/lineage?id=v2", "/lineage?id=cmpl-hostile", "/lineage?id=v9"]


SHOTS = os.environ.get("SHOTS")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_page_opens_fits_and_can_be_read(
    team: tuple[Running, dict[str, str]], visit: Callable[..., Page], width: int, scheme: str
) -> None:
    for path in paths(team[1]):
        page = visit(path, width, scheme)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if path == "":
            expect(page.locator("#now")).to_be_visible()
        if SHOTS:
            name = path.split("=")[0].strip("/").replace("/", "-").replace("?", "-") + ("" if "=" not in path else path[-4:])
            page.screenshot(path=f"{SHOTS}/{name[:24] or 'overview'}.{scheme}.{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("window.hit") is None, path
        page.close()
