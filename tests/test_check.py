"""What is wrong with the data is said before anything is built, all of it at once, and where in the file."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from treadle import show
from treadle.check import check_data
from treadle.core.errors import UserError
from treadle.core.project import SpecError, load_project
from treadle.pipeline import Workshop, plan

YAML = """\
name: tiny
data:
  sources:
    - {table: people.csv, licence: MIT}
model:
  inputs: {age: number, job: category}
  trunk: mlp
  heads: {rich: binary}
"""
PEOPLE = "".join(f"{20 + n},{'abc'[n % 3]},Rome,{'yes' if n % 3 else 'no'}\n" for n in range(30))
ROWS = f"age,job,city,rich\n{PEOPLE}?,a,Rome,no\n"
HASH = "0" * 64


def check(folder: Path, text: str = YAML, *overrides: str) -> dict[str, Any]:
    (folder / "treadle.yaml").write_text(text)
    return check_data(load_project(folder, overrides))


def problems(folder: Path, text: str = YAML, *overrides: str) -> list[tuple[int, str, str, str]]:
    with pytest.raises(SpecError) as caught:
        check(folder, text, *overrides)
    return [(p.line, p.key, p.message, p.cure) for p in caught.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "people.csv").write_text(ROWS)
    return tmp_path


def test_columns_are_shown_as_the_model_reads_them(folder: Path) -> None:
    found = check(folder)
    assert found["sources"] == [{"files": "people.csv", "count": 1, "bytes": len(ROWS), "rows": 31}]
    assert [(c["column"], c["read_as"], c["missing"], c["example"]) for c in found["columns"]] == [
        ("age", "number", 1, "20"), ("job", "category", 0, "a"), ("city", "not read", 0, "Rome"),
        ("rich", "answer: binary", 0, "no"),
    ]
    text = "\n".join(show.checked(load_project(folder), found))
    for words in ("people.csv: 1 files", "the first 31 rows read", "answer: binary", "1 of 31"):
        assert words in text


def test_every_problem_is_told_at_once_with_its_line_and_the_nearest_name(folder: Path) -> None:
    text = YAML.replace("{age: number, job: category}", "{agee: number, j: {number: {column: job}}}").replace("rich:", "job2:")
    text = text.replace("licence: MIT}\n", "licence: MIT}\n    - {table: none.csv, licence: MIT}\n")
    found = problems(folder, text)
    assert [(line, key) for line, key, _, _ in found] == [
        (5, "data.sources.1.table"), (7, "model.inputs.agee"), (7, "model.inputs.j"), (9, "model.heads.job2"),
    ]
    assert "did you mean 'age'?" in found[1][3]
    assert "of 31 first values 31 are not (not a number: 'a')" in found[2][2]
    assert "did you mean 'job'?" in found[3][3]


def test_a_head_that_does_not_fit_its_answers(folder: Path) -> None:
    text = YAML.replace(", job: category", "").replace("rich:", "job:")
    ((line, key, message, cure),) = problems(folder, text)
    assert (line, key, cure) == (8, "model.heads.job", "say 'job: category'")
    assert "hold 3 (a, b, c)" in message
    (folder / "people.csv").write_text("age,job,rich\n1,a,\n2,b,\n")
    assert "none of the first 2 rows has an answer" in problems(folder)[0][2]


def test_a_setting_given_beside_the_file_is_named_as_such(folder: Path) -> None:
    ((_, key, _, cure),) = problems(folder, YAML, "data.split.by=town")
    assert key == "data.split.by"
    assert "age, job, city, rich" in cure


def test_a_table_without_rows(folder: Path) -> None:
    (folder / "people.csv").write_text("age,job,rich\n1,2\n")
    assert "no row to read: people.csv:2: ragged row" in problems(folder)[0][2]


def test_running_text_and_its_column(folder: Path) -> None:
    text = YAML.replace("{age: number, job: category}", "{text: {column: cit}}")
    text = text.replace("trunk: mlp", "trunk: {transformer: {depth: 1}}").replace("{rich: binary}", "{next: next_token}")
    assert problems(folder, text)[0][1:3] == ("model.inputs.text", "people.csv:2 has no column 'cit'")
    assert {c["column"]: c["read_as"] for c in check(folder, text.replace("cit", "city"))["columns"]}["city"] == "text"


def test_histories(folder: Path) -> None:
    (folder / "people.csv").write_text("who,what,when\n" + "".join(f"{n % 3},{n},{n}\n" for n in range(30)))
    text = YAML.replace("licence: MIT}", "licence: MIT, history: {user: whom, item: what, time: when}}")
    text = text.replace("{age: number, job: category}", "{history: set}").replace("rich: binary", "who: category")
    assert problems(folder, text)[0][1:3] == ("data.sources.0", "history: there is no column 'whom'")
    assert [c["column"] for c in check(folder, text.replace("whom", "who"))["columns"]] == ["who", "history"]


def test_databases_are_asked_and_the_network_is_not(folder: Path) -> None:
    with sqlite3.connect(folder / "d.db") as database:
        database.execute("CREATE TABLE t AS SELECT 1 AS age, 'a' AS job, 'no' AS rich")
    text = YAML.replace("table: people.csv", "sql: 'sqlite:///d.db', query: SELECT * FROM t")
    assert check(folder, text)["sources"][0]["rows"] == 1
    assert problems(folder, text.replace("FROM t", "FROM u"))[0][1] == "data.sources.0.sql"
    text = YAML.replace("table: people.csv", f"url: 'http://127.0.0.1:1/x.csv', sha256: '{HASH}', then: {{table: '{{file}}'}}")
    assert check(folder, text)["sources"][0]["note"] == "not downloaded yet"
    text = YAML.replace("table: people.csv", "dataset: some/name")
    assert check(folder, text)["sources"][0]["note"] == "opened by 'treadle run'"


def test_excluded_folders_are_not_walked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "skip/b.txt", "x/skip/deep/c.txt", "x/d.txt"):
        (folder / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "texts" / name).write_text("words")
    text = 'name: t\ndata: {sources: [{files: "texts/**/*.txt", licence: MIT, exclude: {old: ["**/skip/**"]}}]}\n'
    text += "model: {trunk: {transformer: {depth: 1}}}\n"
    entered = []
    real = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: entered.append(Path(path).name) or real(path))
    assert check(folder, text)["sources"] == [{"files": "texts/**/*.txt", "count": 2, "bytes": 10}]
    assert entered[-2:] == ["texts", "x"]


def test_it_is_quick(folder: Path) -> None:
    (folder / "people.csv").write_text(ROWS + "33,a,Rome,no\n" * 200_000)
    start = time.process_time()
    check(folder)
    assert time.process_time() - start < 1.0


def test_projects_that_are_served_beside_it_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        text = NAMED.replace(" {tokenizer: {file: MISSING}}", " text")
        (folder / "treadle.yaml").write_text(f"{text}serve: {{beside: [a, ../b, .]}}\n")
        (folder / "rows.csv").write_text("note,answer\na b,c\nd e,f\n")
    with pytest.raises(SpecError) as caught:
        check_data(load_project(tmp_path))
    told = [(problem.key, problem.message, problem.cure) for problem in caught.value.problems]
    assert [key for key, _, _ in told] == ["serve.beside.1", "serve.beside.2"]
    assert told[0][1].endswith(f"there is no {tmp_path.parent / 'b'}")
    assert told[1][1:] == ("it is this project itself", "leave it out: it is served anyway")


NAMED = """
name: named
data: {sources: [{table: rows.csv, licence: CC0-1.0}]}
model:
  inputs: {note: {tokenizer: {file: MISSING}}}
  trunk: {mlp: {width: 4}}
  heads: {answer: category}
"""


@pytest.mark.parametrize(("change", "key", "said", "cure"), [
    ({"MISSING": "vocab.txt"}, "model.inputs.note.text.tokenizer.file", "vocab.txt, which is not there", "mend the path"),
    ({"MISSING": '"{package:no_such_thing_9}/x"'}, "model.inputs.note.text.tokenizer.file", "that is not installed",
     "pip install no-such-thing-9"),
    ({"MISSING": "treadle.yaml"}, "model.inputs.note.text.tokenizer.file", "is no tokenizer", "give a tokenizer.json"),
    ({" {tokenizer: {file: MISSING}}": " text", "{mlp: {width: 4}}": '{pretrained: {folder: "{package:no_such_thing_9}/x"}}'},
     "model.trunk.pretrained.folder", "that is not installed", "pip install no-such-thing-9"),
    ({" {tokenizer: {file: MISSING}}": " text", "{mlp: {width: 4}}": "{pretrained: {folder: .}}"},
     "model.trunk.pretrained.folder", "holds no config.json and no model.safetensors", "name a folder with an encoder"),
    ({" {tokenizer: {file: MISSING}}": " text", "{mlp: {width: 4}}": "{transformer: {depth: 1}}\n  start_from: first"},
     "model.start_from", "'first' holds no network.json", "name a project with"),
])
def test_files_that_the_model_names_are_looked_for(tmp_path: Path, change: dict[str, str], key: str, said: str, cure: str) -> None:
    text = NAMED
    for old, new in change.items():
        text = text.replace(old, new)
    (tmp_path / "treadle.yaml").write_text(text)
    (tmp_path / "rows.csv").write_text("note,answer\na b,c\nd e,f\n")
    with pytest.raises(SpecError) as caught:
        check_data(load_project(tmp_path))
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == (key, 5 if "inputs" in key else 7 if "start" in key else 6)
    assert said in problem.message
    assert problem.cure.startswith(cure)
    (tmp_path / "rows.csv").unlink()  # nothing is read before that is said
    with pytest.raises(UserError, match=re.escape(said)) as again:
        plan(Workshop.open(load_project(tmp_path)))
    assert again.value.cure.startswith(cure)


def test_a_project_to_start_from_that_has_not_run(tmp_path: Path) -> None:
    text = NAMED.replace(" {tokenizer: {file: MISSING}}", " text")
    text = text.replace("{mlp: {width: 4}}", "{transformer: {depth: 1}}\n  start_from: first")
    (tmp_path / "treadle.yaml").write_text(text)
    (tmp_path / "rows.csv").write_text("note,answer\na b,c\nd e,f\n")
    (tmp_path / "first").mkdir()
    shutil.copy(tmp_path / "treadle.yaml", tmp_path / "first" / "treadle.yaml")
    with pytest.raises(SpecError, match="no version is live in named"):
        check_data(load_project(tmp_path))
