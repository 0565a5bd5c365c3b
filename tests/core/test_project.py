"""A project's folder, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.core.errors import UserError
from treadle.core.project import SpecError, load_project

TEXT = """\
name: demo
data: {sources: [{files: "*.py", licence: MIT}]}
model: {trunk: {transformer: {depth: 2}}}
"""


def test_a_folder_or_its_file_names_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "treadle.yaml").write_text(TEXT)
    by_folder, by_file = load_project(tmp_path), load_project(tmp_path / "treadle.yaml")
    assert by_folder == by_file
    assert by_folder.folder == tmp_path.resolve()
    assert by_folder.store == tmp_path.resolve() / ".treadle"
    assert by_folder.resolved.shape.depth == 2
    monkeypatch.chdir(tmp_path)
    assert load_project(Path("treadle.yaml")).folder == tmp_path.resolve()
    assert load_project(Path(), ["store=../elsewhere"]).store == tmp_path.resolve().parent / "elsewhere"


def test_every_problem_is_raised_at_once(tmp_path: Path) -> None:
    (tmp_path / "treadle.yaml").write_text(TEXT + "seed: x\nserv: {}\n")
    with pytest.raises(SpecError) as caught:
        load_project(tmp_path, ["train.batch=0"])
    assert [problem.key for problem in caught.value.problems] == ["train.batch", "seed", "serv"]
    with pytest.raises(SpecError, match="there is no such file"):
        load_project(tmp_path / "elsewhere")


def test_the_ledgers_secrets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "treadle.yaml"
    file.write_text(TEXT)
    assert load_project(file).ledger_url is None
    file.write_text(TEXT + "ledger: postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/db\n")
    monkeypatch.setenv("DB_USER", "me")
    monkeypatch.setenv("DB_PASSWORD", "a$DB_USER\\1")
    assert load_project(file).ledger_url == "postgresql+psycopg://me:a$DB_USER\\1@host/db"
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(UserError, match=r"ledger names \$DB_PASSWORD, which the environment lacks") as caught:
        _ = load_project(file).ledger_url
    assert "export DB_PASSWORD=" in caught.value.cure
