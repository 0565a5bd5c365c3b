"""Tables as people bring them: each fault is set aside with its reason, told, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.core.errors import SourceError, UserError
from treadle.core.project import load_project
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Artifact, Store

YAML = """\
name: tiny
data: {sources: [{table: t.csv, licence: MIT}], split: {test: 20%, validation: 20%}}
model: {inputs: {a: number, b: category}, trunk: mlp, heads: {y: category}}
"""
GOOD = [f"{n * 37 % 101},{'uvw'[n % 3]},{'pq'[n * n % 7 % 2]}" for n in range(100)]


def prepare(folder: Path, rows: list[str], text: str = YAML) -> tuple[Artifact, Artifact]:
    (folder / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    (folder / "treadle.yaml").write_text(text)
    project = load_project(folder)
    store = Store(project.store)
    corpus = make_corpus(project, store)
    return corpus, make_dataset(project, store, corpus)


def test_answers_that_miss_and_ragged_rows_are_counted(tmp_path: Path) -> None:
    corpus, dataset = prepare(tmp_path, [*GOOD, "1,u,", "2,u", "x,u,p"])
    assert corpus.counts["account"] == {"in": 103, "kept": 100, "set_aside": {"no answer": 1, "not a number": 1, "ragged row": 1}}
    assert sum(part["records"] for part in dataset.counts["parts"].values()) == 100


def test_a_constant_column_and_a_class_seen_once_are_told(tmp_path: Path) -> None:
    text = YAML.replace("split: {test: 20%, validation: 20%}", "split: {test: 10%, validation: 10%}")
    for number in range(20):  # until the odd one falls into the train part
        rows = [row.replace(",v,", ",u,").replace(",w,", ",u,") for row in GOOD] + [f"{1000 + number},u,rare"]
        notes = "; ".join(prepare(tmp_path, rows, text)[1].counts["notes"])
        if "rare" in notes:
            break
    assert "'b' is 'u' in every record" in notes
    assert "'y': seen once only, so hardly learned: rare" in notes


def test_a_column_that_gives_the_answer_away_is_refused(tmp_path: Path) -> None:
    rows = [f"{n},{'uv'[n % 2]},{'pq'[n % 2]}" for n in range(100)]
    with pytest.raises(UserError, match="'b' gives 'y' away") as caught:
        prepare(tmp_path, rows)
    assert "leave 'b' out" in caught.value.cure


def test_a_record_in_two_parts_is_left_to_the_held_out_one(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("\n".join(["a,b,y", *GOOD[:10]]) + "\n")
    sources = "{table: t.csv, licence: MIT, part: train}, {table: test.csv, licence: MIT, part: test}"
    corpus, dataset = prepare(tmp_path, GOOD, YAML.replace("{table: t.csv, licence: MIT}", sources))
    assert corpus.counts["account"]["set_aside"]["also held out"] >= 10
    assert dataset.counts["parts"]["test"]["records"] == 10


def test_two_encodings_stop_it_with_the_byte(tmp_path: Path) -> None:
    prepare(tmp_path, GOOD)
    with (tmp_path / "t.csv").open("ab") as stream:
        stream.write("1,ü,p\n".encode("latin-1"))
    project = load_project(tmp_path)
    with pytest.raises(SourceError, match=r"t.csv is not utf-8: byte \d+ \(0xfc\)"):
        make_corpus(project, Store(project.store))
