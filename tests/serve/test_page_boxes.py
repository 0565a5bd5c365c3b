"""The page of a model that finds things in a picture: drawn where they are, and put right as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_input import png
from playwright.sync_api import Page, expect
from sites import Site, running

from treadle.core.project import load_project
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.feedback.curate import curate
from treadle.model.network import make_network, save_network
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

SPEC = """\
name: street
data: {sources: [{table: streets.csv, licence: CC0-1.0}]}
model:
  inputs: {photo: {image: {size: 16, fit: pad}}}
  trunk: {conv: {channels: [4, 8]}}
  heads: {things: {boxes: {queries: 3, width: 32, depth: 1, threshold: 0.0}}}
"""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of a network as it was drawn, which says what it finds however unlikely."""
    folder = tmp_path_factory.mktemp("street")
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    schema, store, ledger = Schema(project.spec.model), Store(project.store), Ledger(project.store)
    things = [{"box": [4, 4, 20, 12], "label": "car"}, {"box": [30, 30, 9, 20], "label": "child"}]
    schema.fit([Record("1", schema.parse({"photo": png(10), "things": things}), "made up", "CC0-1.0", "1")])
    id = store.identify("package", [], {}, 1)
    with store.create(id, parents=[], config={}, version=1, seed=0) as package:
        save_network(make_network(project.spec.model, schema.layouts, 0), package.path)
        schema.save(package.path)
    ledger.promote(id, "test")
    with running(Site(project, store, ledger, (id, id, id)), (), "127.0.0.1") as server:
        yield server
    ledger.close()


def test_things_are_drawn_where_they_are_and_put_right(street: Any, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(street.url)
    page.get_by_label("photo", exact=True).set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png(90)})
    page.get_by_role("switch", name="Keep this record").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".found rect")).to_have_count(3)
    id = page.locator(".verdict code").inner_text()
    told = json.loads(street.site.ledger.answer(id)["text"])["things"]
    assert page.locator(".given").inner_text() == "3"
    numbers = "all => all.map(r => ['x', 'y', 'width', 'height'].map(name => Number(r.getAttribute(name))))"
    drawn = page.locator(".found rect").evaluate_all(numbers)
    assert drawn == [thing["box"] for thing in told]
    assert all(x >= 0 and y >= 0 and x + w <= 64.01 and y + h <= 64.01 for x, y, w, h in drawn)
    assert page.locator(".found svg").get_attribute("viewBox") == "0 0 64 64"
    frames = [page.locator(f".found {part}").bounding_box() for part in ("img", "svg")]
    assert np.allclose(list(frames[0].values()), list(frames[1].values()), atol=1)  # type: ignore[union-attr]
    shown = page.locator(".found li").all_inner_texts()
    assert [text.split()[0] for text in shown] == [thing["label"] for thing in told]
    page.get_by_role("button", name="The right answer is").click()
    field = page.get_by_label("things", exact=True)
    assert json.loads(field.input_value()) == [{"box": thing["box"], "label": thing["label"]} for thing in told]
    field.fill('[{"box": [1, 2')
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("That is no JSON")).to_be_visible()
    field.fill('[{"box": [10, 20, 30, 12.5], "label": "car"}]')
    page.screenshot(path=tmp_path / "boxes.png", full_page=True)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("The model can learn from it")).to_be_visible()
    project = load_project(street.site.project.folder)
    records, aside, _ = curate([dict(row) for row in street.site.ledger.all_feedback()], Schema(project.spec.model))
    assert not aside
    assert records[-1].fields["things"] == [{"box": [10.0, 20.0, 30.0, 12.5], "label": "car"}]
