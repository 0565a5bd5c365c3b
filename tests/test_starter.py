"""Projects on data that was never seen: what was guessed, and that it runs."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from treadle.check import check_data
from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.pipeline import Workshop, build
from treadle.starter import start

ADULT = "".join(
    f"{20 + n % 40}, {'State-gov' if n % 3 else '?'}, {n * 977}, {'HS' if n % 2 else 'BA'}, {'>' if n % 5 else '<'}\n"
    for n in range(60)
)
TITANIC = "".join(f"{n % 2},{n % 3},{n % 37}\n" for n in range(60))
CELLS = "".join(f"{n % 7},{n % 5},{2 + 2 * (n % 2)}\n" for n in range(60))
HOUSES = "".join(f"{n},{n * 7.5},{'ab'[n % 2]}\n" for n in range(50))


def table(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def guessed(path: Path, target: str | None = None) -> dict[str, str]:
    made, found = start(path, path.parent / "p", target)
    project = load_project(made)
    check_data(project)
    return {what: guess for what, guess, _ in found.guesses}


def people(rows: int = 400) -> str:
    random.seed(0)
    out = ["id,age,city,since,tags,note,always,paid,churned,churned_code"]
    for n in range(rows):
        age, paid = random.randint(18, 80), random.choice(["yes", "no"])
        gone = "gone" if age > 50 else "here"
        tags = "|".join(random.sample(["new", "big", "old", "far"], random.randint(1, 3)))
        city = random.choice(["Rome", "Oslo", "Bern"])
        note = f"{random.choice(['called', 'wrote'])} about item {random.randint(1, 999)} on a {random.choice(['wet', 'dry'])} day"
        out.append(f"{n},{age if n % 9 else '-'},{city},20{n % 20:02}-0{n % 9 + 1}-11,{tags},{note},x,{paid},{gone},{gone[0]}")
    return "\n".join(out) + "\n"


def test_every_kind_of_column_is_told_and_the_project_runs(tmp_path: Path) -> None:
    found = guessed(table(tmp_path, "people.csv", people()), "churned")
    assert found == {
        "encoding": "utf-8", "delimiter": ",", "header": "yes", "missing": "-", "id": "-", "age": "number", "city": "category",
        "since": "date", "tags": "set", "note": "text", "always": "-", "paid": "boolean", "churned": "binary", "churned_code": "-",
    }
    small = ("model.inputs.note={text: {tokenizer: {words: 50}, context: 16}}", "train.threads=1", "train.budget=6 epochs",
             "evaluate.resamples=100")
    outcome = build(Workshop.open(load_project(tmp_path / "p", small)), None)
    assert outcome.scorecard["heads"]["churned"]["metrics"]["accuracy"]["value"] > 0.8


@pytest.mark.parametrize(("text", "header", "target"), [
    (ADULT, "no", ("c5", "binary")),
    ("survived,pclass,age\n" + TITANIC, "yes", ("survived", "binary")),
    (CELLS, "no", ("c3", "binary")),
    ("rooms,median_house_value,near\n" + HOUSES, "yes", ("median_house_value", "number")),
])
def test_header_and_target(tmp_path: Path, text: str, header: str, target: tuple[str, str]) -> None:
    found = guessed(table(tmp_path, "t.csv", text))
    assert found["header"] == header
    assert found[target[0]] == target[1]


def test_names_come_from_the_description_beside_the_file(tmp_path: Path) -> None:
    table(tmp_path, "t.names", "| about\nage: continuous.\nwork: State-gov, Private.\nwage: continuous.\nschool: HS, Bachelors.\n")
    found = guessed(table(tmp_path, "t.data", ADULT))
    assert {"age", "work", "wage", "school"} < set(found)
    assert found["target"] == "binary"


def test_encodings_delimiters_and_bare_quotes(tmp_path: Path) -> None:
    text = "Stadt;Wert\n" + "Köln;3\nBonn;4\nUlm;3\nUlm;4\n" * 10
    found = guessed(table(tmp_path, "a.csv", text, "latin-1"))
    assert (found["encoding"], found["delimiter"], found["Wert"]) == ("cp1252", ";", "binary")
    (tmp_path / "p" / "treadle.yaml").unlink()
    lines = "".join(f'"he said no more {n}\tno\n{n} was all he said "\tyes\n' for n in range(30))
    found = guessed(table(tmp_path, "b.tsv", "text\tlabel\n" + lines))
    assert (found["quoted"], found["label"]) == ("false", "binary")


def test_folders_by_class(tmp_path: Path) -> None:
    from PIL import Image

    for n in range(12):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            Image.new("RGB", (8, 8), (20 * n, 0, 255)).save(data, "png")
            (tmp_path / "pets" / name / f"{n}.png").write_bytes(data.getvalue())
            (tmp_path / "mail" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mail" / name / f"{n}.txt").write_text(f"{name} words number {n}")
            (tmp_path / "book").mkdir(exist_ok=True)
            (tmp_path / "book" / f"{n}.md").write_text("some prose to learn from")
    for folder, key, guess in (("pets", "class", "binary"), ("mail", "class", "binary"), ("book", "model", "next_token")):
        made, found = start(tmp_path / folder, tmp_path / f"p-{folder}")
        assert check_data(load_project(made))["sources"]
        assert {what: value for what, value, _ in found.guesses}[key] == guess


@pytest.mark.parametrize(("name", "text", "said"), [
    ("t.csv", "", "is empty"), ("t.csv", "a\n1\n2\n", "one column only"), ("t.doc", "x", "no table that can be read"),
    ("t.csv", "a,b\n", "holds no row"),
])
def test_what_cannot_be_started_from(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        start(table(tmp_path, name, text), tmp_path / "p")
    assert not (tmp_path / "p").exists()


DATA = Path(os.environ.get("TREADLE_DATA", "../shared/data"))


@pytest.mark.parametrize(("file", "target", "kind", "out"), [
    ("adult/adult-train.csv", "target", "binary", []), ("titanic/titanic_raw.csv", "survived", "binary", ["ticket", "cabin"]),
    ("california-housing/housing.csv", "median_house_value", "number", []),
    ("titanic/titanic.csv", "survived", "binary", ["alive"]),
    ("breast-cancer-wisconsin/breast-cancer-wisconsin.csv", "c10", "binary", []),
    ("sick/SICK_train.txt", "entailment_judgment", "category", ["pair_ID"]),
])
def test_real_tables(tmp_path: Path, file: str, target: str, kind: str, out: list[str]) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not on this machine: set TREADLE_DATA")
    made, found = start(DATA / file, tmp_path / "p")
    check_data(load_project(made))
    guesses = {what: guess for what, guess, _ in found.guesses}
    assert guesses[target] == kind
    assert [what for what, guess in guesses.items() if guess == "-"] == out
