"""Cosines and vectors over HTTP and on the page, and what is learned from a right cosine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from treadle.data.schema import Schema
from treadle.feedback.curate import curate


def ask(server: Any, one: str | None, two: str | None, **fields: object) -> dict[str, Any]:
    told = server.client.post("/v1/predict", json={"inputs": {"one": one, "two": two}, **fields})
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()["predictions"][0]
    return found


def test_two_texts_give_the_cosine_of_what_each_gives_alone(alike: Any) -> None:
    first, second = (ask(alike, *texts)["heads"]["alike"]["answer"] for texts in (("a small dog", None), (None, "tiny hound")))
    assert sum(part * part for part in first) == pytest.approx(1, abs=1e-4)
    cosine = ask(alike, "a small dog", "tiny hound")["heads"]["alike"]["answer"]
    assert cosine == pytest.approx(sum(a * b for a, b in zip(first, second, strict=True)), abs=1e-4)
    assert ask(alike, "a small dog", "a small dog")["heads"]["alike"]["answer"] == pytest.approx(1, abs=1e-5)
    assert ask(alike, None, " ")["heads"]["alike"]["answer"] is None


def test_a_right_cosine_is_learned_from_and_a_vector_is_not(alike: Any) -> None:
    both, alone = ask(alike, "a dog", "runs", store=True), ask(alike, "a dog", None, store=True)
    for answer in (both, alone):
        said = alike.client.post("/v1/feedback", json={"answer_id": answer["id"], "edited": {"alike": 0.5}})
        assert said.status_code == 200
    rows = [dict(row) for row in alike.site.ledger.all_feedback()]
    records, aside, _ = curate(rows, Schema.load(alike.site.folder(alike.site.packages[0])))
    assert [record.fields for record in records] == [{"one": "a dog", "two": "runs", "score": 3.0}]
    assert [item.reason for item in aside] == ["no text"]


def test_the_page_shows_a_cosine_to_correct_and_a_vector(alike: Any, open_page: Callable[..., Page]) -> None:
    page = open_page(alike.url)
    page.get_by_label("one", exact=True).fill("a small dog")
    page.get_by_role("switch", name="Keep this record").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".given")).to_have_text("8 numbers")
    assert len(page.locator(".vector").inner_text().split()) == 8
    expect(page.get_by_role("button", name="The right answer is")).to_have_count(0)
    page.get_by_label("two", exact=True).fill("a small dog")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".given")).to_have_text("1")
    page.get_by_role("button", name="The right answer is").click()
    page.locator("#right-alike").fill("0.25")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("The model can learn from it")).to_be_visible()
    said = [row for row in alike.site.ledger.all_feedback() if row["answer"] == page.locator(".verdict code").inner_text()]
    assert float(json.loads(said[-1]["edited"])["alike"]) == 0.25
