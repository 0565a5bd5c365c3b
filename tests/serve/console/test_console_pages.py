"""Every page of the console in a real browser: it opens, loads nothing from elsewhere, runs nothing that users wrote, and can be
used by keyboard and screen reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consoles import HOSTILE, PAGES, STATUS, answered, console, furnish, history, train
from playwright.sync_api import Page, Route, expect
from sites import Running, copied

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
    """Goes to an address below /console, in one tab; ``/v1/status`` gives the document that was recorded."""
    server, _ = team
    tabs: list[Page] = []

    def go(path: str, width: int = 1280, scheme: Any = "light") -> Page:
        if not tabs:
            tabs.append(open_page(server.url, width, scheme, wanted="400 (Bad Request)"))
            tabs[0].route("**/v1/status", lambda route: route.fulfill(body=json.dumps(STATUS), content_type="application/json"))
        tabs[0].goto(f"{server.url}/console{path}")
        return tabs[0]

    return go


def paths(ids: dict[str, str]) -> list[str]:
    """Of every kind of page one, and of some several."""
    compared = f"/compare?of={ids['one']}&of={ids['two']}"
    traced = [f"/lineage?id={name}" for name in ("v2", "cmpl-hostile", "v9")]
    return [*PAGES, f"/runs/{ids['two']}", compared, "/data?aside=1", *traced]


# What a screen reader needs, and what an eye does: names of controls, headings in order, landmarks, contrast (WCAG 2.2, 1.4.3).
FAULTS = """() => {
  const faults = [], seen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length;
  const nameOf = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean)
    .map((id) => document.getElementById(id)?.textContent ?? "").join(" ")
    || [...(e.labels ?? [])].map((l) => l.textContent).join(" ") || (e.matches("button, a, summary") ? e.textContent : "")).trim();
  const controls = "button, a[href], input, select, textarea, [role=region], [tabindex='0'], nav, dialog, progress, audio";
  for (const e of document.querySelectorAll(controls))
    if (seen(e) && !nameOf(e) && !e.matches(".scroll:not([role])")) faults.push(`no name: ${e.outerHTML.slice(0, 120)}`);
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4, h5")) {
    if (!seen(e)) continue;
    const own = Number(e.tagName[1]);
    if (own > level + 1) faults.push(`heading ${own} after ${level}: ${e.textContent}`);
    level = own;
  }
  for (const name of ["header", "nav", "main", "footer", "h1"])
    if (document.querySelectorAll(`body > ${name}, ${name}`).length < 1) faults.push(`no ${name}`);
  for (const name of ["main", "h1"]) if (document.querySelectorAll(name).length !== 1) faults.push(`not one ${name}`);
  for (const e of document.querySelectorAll("table")) {
    if (!e.querySelector("th[scope=row]")) faults.push("a table without names of rows");
    if (!e.closest("[tabindex]")) faults.push("a table that cannot be scrolled by keyboard");
  }
  for (const e of document.querySelectorAll("[id]"))
    if (document.querySelectorAll(`[id='${CSS.escape(e.id)}']`).length > 1 && !e.closest("svg")) faults.push(`id twice: ${e.id}`);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const found = rgb(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > 0.99) return found;
    }
    return [255, 255, 255];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(e) || e.closest("svg, .unseen, option, [disabled], script, noscript")) continue;
    const style = getComputedStyle(e), pair = [light(rgb(style.color)), light(ground(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05), large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 90)}`);
  }
  return faults;
}"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_page_opens_fits_and_can_be_used_with_eyes_and_without(
    team: tuple[Running, dict[str, str]], visit: Callable[..., Page], tmp_path: Path, width: int, scheme: str
) -> None:
    found = {}
    for number, path in enumerate(paths(team[1])):
        page = visit(path, width, scheme)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if path == "":
            expect(page.locator("#now")).to_be_visible()
        if path == "/feedback":
            page.keyboard.press("j")
            page.keyboard.press("e")
        page.screenshot(path=tmp_path / f"{number:02}.png", full_page=True)
        found[path] = page.evaluate(FAULTS)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found[path].append("wider than the window")
        assert page.evaluate("window.hit") is None, path
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_the_look_for_faults_sees_them(visit: Callable[..., Page]) -> None:
    page = visit("/keys")
    page.evaluate("""() => {
      document.querySelector("label[for=name]").remove();
      document.querySelector("#h-all").outerHTML = "<h4>Keys</h4>";
      const faint = { color: "rgb(200, 200, 200)" };
      document.querySelector("footer").animate([faint, faint], 1e6);
    }""")
    faults = " ".join(page.evaluate(FAULTS))
    assert 'no name: <input id="name"' in faults
    assert "heading 4 after 1" in faults
    assert "contrast 1." in faults


def test_the_first_press_of_tab_leads_past_the_pages_links(visit: Callable[..., Page]) -> None:
    page = visit("/cost")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    here = page.get_by_role("navigation", name="Console").get_by_role("link", name="Cost")
    expect(here).to_have_attribute("aria-current", "page")


def test_what_goes_on_now_is_drawn_from_the_status(visit: Callable[..., Page]) -> None:
    page = visit("")
    expect(page.locator("#stamp")).to_have_text("Version 2 of tiny answers, for 1 h 30 min so far. As of 2026-11-29 00:00 UTC.")
    rows = page.get_by_role("region", name="Latency").get_by_role("row")
    assert [" ".join(row.split()) for row in rows.all_inner_texts()] == [
        "half within 90% within 99% within of", "first token 34 ms 120 ms 310 ms 812", "whole answer 840 ms 1.9 s 4.25 s 812",
        "in the queue 0 ms 10 ms 200 ms 812",
    ]
    versions = page.get_by_role("region", name="Versions").get_by_role("row").nth(1).inner_text().split()
    assert versions == ["1", "live", "90.0%", "1,600", "90,123", "800", "ms", "12", "3", "2"]
    for words in ("1.04 EUR", "31.5", "1.0%", "18 of 1,812 answers", "40.0%", "psi", "0.31"):
        expect(page.locator("#now")).to_contain_text(words)
    assert page.get_by_text(HOSTILE, exact=True).count() == 2  # told as text, in drift and in alerts


def test_the_status_is_asked_for_again_while_someone_looks(team: tuple[Running, dict[str, str]], open_page: Open) -> None:
    asked = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(body=json.dumps(STATUS | {"version": len(asked)}), content_type="application/json")

    page = open_page(team[0].url)
    page.route("**/v1/status", answer)
    page.goto(f"{team[0].url}/console")
    expect(page.locator("#stamp")).to_contain_text("Version 1 of")
    expect(page.locator("#stamp")).to_contain_text("Version 2 of", timeout=10_000)


def test_without_a_status_it_says_so(team: tuple[Running, dict[str, str]], open_page: Open) -> None:
    page = open_page(team[0].url, wanted="404")
    page.route("**/v1/status", lambda route: route.fulfill(status=404, body="{}", content_type="application/json"))
    page.goto(f"{team[0].url}/console")
    expect(page.get_by_text("This server has no /v1/status")).to_be_visible()
    expect(page.locator("#now")).to_be_hidden()


def test_a_training_that_goes_on_is_drawn_anew(template: Template, tmp_path: Path, open_page: Open) -> None:
    with copied(template, tmp_path / "project") as site:
        workspace = train(site, 60)
        with console(site) as server:
            page = open_page(server.url)
            page.goto(f"{server.url}/console/runs")
            expect(page.locator("#training")).to_contain_text("15%: step 60 of 400")
            expect(page.locator("#training svg").first).to_be_visible()
            before = page.locator("#training svg path.line").last.get_attribute("d")
            history(workspace, 200)
            expect(page.locator("#training")).to_contain_text("50%: step 200 of 400", timeout=10_000)
            assert page.locator("#training svg path.line").last.get_attribute("d") != before


def test_models_are_compared_that_were_ticked(team: tuple[Running, dict[str, str]], visit: Callable[..., Page]) -> None:
    _, ids = team
    page = visit("/runs")
    for name in ("one", "two"):
        page.get_by_label(f"compare {ids[name]}").check()
    page.get_by_role("button", name="Compare those ticked").click()
    expect(page.get_by_role("heading", name="What differs")).to_be_visible()
    row = page.get_by_role("row", name="train.batch")
    assert row.inner_text().split() == ["train.batch", "8", "4"]


def test_data_is_shown_page_by_page_and_what_was_set_aside_by_reason(visit: Callable[..., Page]) -> None:
    page = visit("/data")
    expect(page.get_by_role("heading", name="45 records, from 1 to 20")).to_be_visible()
    picture = page.get_by_alt_text("photo: a picture of 60 by 40 pixels").first
    assert picture.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [60, 40]
    seen = set()
    for _ in range(3):
        seen.update(page.locator(".records h3").all_inner_texts())
        if page.get_by_role("link", name="Next").count():
            page.get_by_role("link", name="Next").click()
            page.wait_for_load_state()
    assert seen == {HOSTILE, *(f"files/{n}.py" for n in range(1, 45))}
    page.get_by_label("Show").select_option("what was set aside")
    page.get_by_label("Set aside since").select_option("secret (1)")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="1 set aside: secret")).to_be_visible()
    assert page.get_by_text(HOSTILE, exact=True).count() == 2


def test_an_answer_is_traced_to_its_version(visit: Callable[..., Page]) -> None:
    page = visit("/lineage")
    expect(page.locator("svg.graph").first).to_be_visible()
    page.get_by_label("Trace an answer").fill("cmpl-plain")
    page.get_by_role("button", name="Trace").click()
    expect(page.locator(".tree").first).to_contain_text("asked: 'def f(x):")
    expect(page.get_by_text("verified").first).to_be_visible()
