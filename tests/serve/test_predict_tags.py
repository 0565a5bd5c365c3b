"""Spans over HTTP, in a file and on the page: asked, told, kept without what was redacted, corrected, and learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from treadle.data.schema import Schema
from treadle.feedback.curate import curate
from treadle.serve.file import predict_file

TEXT = "  🙂 Ann Lee met joe@example.com and Bob in Oslo"
SPANS = [(4, 11, "PERSON", "Ann Lee"), (36, 39, "PERSON", "Bob")]  # Oslo stands behind the twelve tokens that are read


def ask(server: Any, text: str, **fields: object) -> dict[str, Any]:
    told = server.client.post("/v1/predict", json={"inputs": {"note": text}, **fields})
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()["predictions"][0]
    return found


def listed(spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(span[key] for key in ("start", "end", "label", "text")) for span in spans]


def test_spans_count_the_characters_of_the_text_as_it_was_sent(names: Any) -> None:
    head = ask(names, TEXT)["heads"]["spans"]
    assert listed(head["answer"]) == SPANS
    assert all(0.5 < span["probability"] <= 1 for span in head["answer"])
    assert head["read"] == len("  🙂 Ann Lee met joe@example.com and Bob in")
    assert set(ask(names, "Bob")["heads"]["spans"]) == {"answer"}
    assert ask(names, "")["heads"]["spans"]["answer"] == []


def test_what_a_client_is_told_of_the_head(names: Any) -> None:
    (model,) = names.client.get("/v1/models").json()["data"]
    assert model["heads"] == [{"name": "spans", "kind": "tags", "choices": ["PERSON", "PLACE"], "column": "note"}]


def test_what_is_kept_holds_nothing_that_was_redacted_and_can_be_learned_from(names: Any) -> None:
    schema = Schema.load(names.site.folder(names.site.packages[0]))
    ledger = names.site.ledger
    text = "joe@example.com Bob in Oslo"
    right, wrong = ask(names, text, store=True), ask(names, text, store=True)
    assert listed(right["heads"]["spans"]["answer"]) == [(16, 19, "PERSON", "Bob"), (23, 27, "PLACE", "Oslo")]
    rated = names.client.post("/v1/feedback", json={"answer_id": right["id"], "rating": "up"})
    assert rated.status_code == 200
    mail = [{"start": 0, "end": 15, "label": "PERSON", "text": "joe@example.com"}, {"start": 23, "end": 27, "label": "PLACE"}]
    for edited in (mail, {"spans": mail}, {"spans": json.dumps(mail)}, json.dumps(mail)):
        body = {"answer_id": wrong["id"], "edited": edited if not isinstance(edited, list) else {"spans": edited}}
        assert names.client.post("/v1/feedback", json=body).status_code == 200
    kept = [ledger.answer(answer["id"]) for answer in (right, wrong)]
    said = [dict(row) for row in ledger.all_feedback() if row["answer"] in (right["id"], wrong["id"])]
    assert "joe@example.com" not in json.dumps([[row["prompt"], row["text"], row["settings"]] for row in kept if row]) + str(said)
    records, aside, _ = curate(said, schema)
    fields = {record.meta["kind"]: record.fields for record in records}
    moved = "<EMAIL> Bob in Oslo"
    assert {kind: record["note"] for kind, record in fields.items()} == {"accepted": moved, "edited": moved}
    assert [moved[span["start"] : span["end"]] for span in fields["accepted"]["spans"]] == ["Bob", "Oslo"]
    assert [moved[span["start"] : span["end"]] for span in fields["edited"]["spans"]] == ["<EMAIL>", "Oslo"]
    assert {item.reason for item in aside} == {"superseded"}


def test_spans_that_cannot_be_read_are_refused_and_impossible_ones_set_aside(names: Any) -> None:
    answer = ask(names, "Bob met Ann Lee", store=True)
    refused = names.client.post("/v1/feedback", json={"answer_id": answer["id"], "edited": {"spans": "Bob is a person"}})
    assert refused.status_code == 400
    assert "not spans" in refused.json()["error"]["message"]
    far = [{"start": 8, "end": 99, "label": "PERSON"}]
    assert names.client.post("/v1/feedback", json={"answer_id": answer["id"], "edited": {"spans": far}}).status_code == 200
    rows = [dict(row) for row in names.site.ledger.all_feedback() if row["answer"] == answer["id"]]
    records, aside, _ = curate(rows, Schema.load(names.site.folder(names.site.packages[0])))
    assert (records, [item.reason for item in aside]) == ([], ["span outside the text"])


def test_a_file_of_texts_is_answered_in_its_own_characters(names: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"note": text}) for text in (TEXT, "nothing at all")))
    site = names.site
    found = predict_file(site.project, site.store, site.ledger, tmp_path / "texts.jsonl", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert [listed(line["spans.answer"]) for line in lines] == [SPANS, []]


def test_the_page_marks_spans_and_takes_right_ones(names: Any, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(names.url)
    page.get_by_label("note", exact=True).fill("🙂 <b>Bob</b> & Ann Lee saw Oslo" + " and" * 12 + " end")
    page.get_by_role("switch", name="Keep this record").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("Is it right?")).to_be_visible()
    marks = page.locator(".marked mark")
    assert [text.removesuffix("PERSON") for text in marks.all_inner_texts()] == ["Bob", "Ann Lee"]
    assert marks.locator("b").all_inner_texts() == ["PERSON", "PERSON"]
    unmarked = page.locator(".marked").evaluate("node => [...node.childNodes].map(n => n.nodeType === 3 ? n.data : '').join('')")
    assert unmarked.startswith("🙂 <b></b> & ")
    assert page.locator(".marked s").inner_text().endswith("end")
    expect(page.get_by_text("characters were read")).to_be_visible()
    page.screenshot(path=tmp_path / "marked.png", full_page=True)
    page.get_by_role("button", name="The right answer is").click()
    desk = page.locator("#right-spans")
    assert [span["label"] for span in json.loads(desk.input_value())] == ["PERSON", "PERSON"]
    desk.fill('[{"start": 5, "end": 8, "label": "PLACE"}]')
    page.screenshot(path=tmp_path / "desk.png", full_page=True)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("The model can learn from it")).to_be_visible()
    said = [row for row in names.site.ledger.all_feedback() if row["answer"] == page.locator(".verdict code").inner_text()]
    assert json.loads(said[-1]["edited"]) == {"spans": [{"start": 5, "end": 8, "label": "PLACE"}]}
