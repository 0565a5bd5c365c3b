"""Spans from a file to a dataset: they go with what redaction does, or their record is set aside, and people are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tiny import write_project
from treadle.data.record import read_records
from treadle.prepare.corpus import QUARANTINE, RECORDS, make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Store

SPEC = """\
name: tagged
data:
  sources: [{table: rows.jsonl, licence: CC0-1.0}]
  split: {test: 20%, validation: 20%, by: form}
model:
  inputs: {note: {tokenizer: {words: 60}, context: 8}}
  trunk: {recurrent: {directions: 2}}
  heads: {spans: tags}
"""
MAIL = "joe@example.com"


def span(text: str, part: str, label: str = "X") -> dict[str, Any]:
    start = text.index(part)
    return {"start": start, "end": start + len(part), "label": label}


def rows() -> list[dict[str, Any]]:
    text = f"  Ann wrote to {MAIL} in Oslo"
    made = [{"note": text, "spans": [span(text, part) for part in ("Ann", MAIL, "Oslo")], "form": number} for number in range(40)]
    halves = [{"start": 15, "end": 18, "label": "X"}, {"start": 19, "end": 30, "label": "X"}]
    return [*made, {"note": text, "spans": halves, "form": 1}, {"note": "a b c d e f g h i j Oslo", "spans": [], "form": 2}]


@pytest.mark.parametrize("pii", ["redact", "keep"])
def test_spans_follow_what_redaction_moves(pii: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = write_project(tmp_path, f"data.clean.pii={pii}", text=SPEC)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    store = Store(project.store)
    corpus = make_corpus(project, store)
    aside = [(row["reason"], row["source"]) for row in pq.read_table(corpus.path / QUARANTINE).to_pylist()]
    assert aside == ([("overlapping spans", "rows.jsonl:41")] if pii == "redact" else [])
    stood = "<EMAIL>" if pii == "redact" else MAIL
    for record in list(read_records(corpus.path / RECORDS))[:40]:
        text = record.fields["note"]
        assert text == f"  Ann wrote to {stood} in Oslo"
        assert [text[one["start"] : one["end"]] for one in record.fields["spans"]] == ["Ann", stood, "Oslo"]
    notes = make_dataset(project, store, corpus).counts["notes"]
    assert any("longer than 8 tokens" in note for note in notes)
    assert any("hold a placeholder such as <EMAIL>" in note for note in notes) is (pii == "redact")
    said = capsys.readouterr()
    assert all(note in said.err + said.out for note in notes)
