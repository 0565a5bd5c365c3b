"""Queries against SQLite and a real PostgreSQL: types, order, and no password anywhere."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rows_world import gather, place, source

from treadle.core.errors import SourceError, UserError
from treadle.data.sources.sql import sql_rows
from treadle.spec.data import source_name
from treadle.spec.load import read

AT = datetime(2024, 2, 29, 12, 30)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with one table of every type."""
    real = f"sqlite:///{tmp_path}/db.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")
    engine = sa.create_engine(real)
    columns = {"price": sa.Numeric(10, 2), "day": sa.Date, "at": sa.DateTime, "paid": sa.Boolean, "photo": sa.LargeBinary,
               "job": sa.Text}
    made = [sa.Column(name, kind) for name, kind in columns.items()]
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *made)
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [
            {"id": 1, "price": Decimal("1234.50"), "day": date(2024, 2, 29), "at": AT, "paid": True, "photo": b"\x89", "job": "%"},
            {"id": 2, **dict.fromkeys(columns)},
            *({"id": n, "price": Decimal(n), "day": date(2024, 1, 1), "at": AT, "paid": n % 2 == 0, "photo": b"", "job": ":x"}
              for n in range(3, 1203)),
        ])
    engine.dispose()
    return "sqlite:///db.sqlite" if request.param == "sqlite" else real


def test_every_type_reaches_the_model(url: str, tmp_path: Path) -> None:
    inputs = {"price": "number", "day": "date", "at": "date", "paid": "boolean", "job": "category"}
    spec = source(sql=url, query="SELECT * FROM t WHERE job IS NULL OR job NOT LIKE ':y%' ORDER BY id")
    kept, aside = gather(spec, place(tmp_path, inputs, {"id": "category"}))
    assert (len(kept), aside) == (1202, [])
    day, at = datetime(2024, 2, 29, tzinfo=UTC).timestamp(), AT.replace(tzinfo=UTC).timestamp()
    assert kept[0].fields == {"price": 1234.5, "day": day, "at": at, "paid": True, "job": "%", "id": "1"}
    assert kept[1].fields == {"price": None, "day": None, "at": None, "paid": None, "job": None, "id": "2"}
    assert [r.fields["id"] for r in kept] == [str(n) for n in range(1, 1203)]
    again, _ = gather(spec, place(tmp_path, inputs, {"id": "category"}))
    assert again == kept


def test_bytes_are_no_text_until_someone_says_how(url: str, tmp_path: Path) -> None:
    spec = source(sql=url, query="SELECT id, photo FROM t WHERE id < 3 ORDER BY id")
    rows = [row for _, row in sql_rows(spec, place(tmp_path))]  # type: ignore[arg-type]
    assert rows == [{"id": 1, "photo": b"\x89"}, {"id": 2, "photo": None}]
    _, aside = gather(spec, place(tmp_path, {"photo": "category"}, {"id": "category"}))
    assert [s.reason for s in aside] == ["not text"]


def test_a_query_changes_nothing(url: str, tmp_path: Path) -> None:
    for query in ("DELETE FROM t", "DELETE FROM t RETURNING id"):
        with pytest.raises(SourceError):
            gather(source(sql=url, query=query), place(tmp_path, {"price": "number"}, {"id": "category"}))
    rows = [row for _, row in sql_rows(source(sql=url, query="SELECT count(*) AS n FROM t"), place(tmp_path))]  # type: ignore[arg-type]
    assert rows == [{"n": 1202}]


@pytest.mark.parametrize(("query", "said"), [
    ("SELECT nothing FROM t", "nothing"), ("SELECT id, id FROM t", "column 'id' more than once"), ("SELEC", "(?i)syntax error"),
])
def test_a_wrong_query_is_told(url: str, tmp_path: Path, query: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        gather(source(sql=url, query=query), place(tmp_path, {"id": "number"}))


def test_names_come_from_the_environment_and_the_password_goes_nowhere(postgres: str, tmp_path: Path, monkeypatch: Any) -> None:
    written = postgres.replace("treadle@", "$DB_USER:$DB_PASSWORD@")
    spec = source(sql=written, query="SELECT nothing")
    monkeypatch.setenv("DB_USER", "treadle")
    with pytest.raises(UserError, match=r"data.sources.0.sql names \$DB_PASSWORD"):
        gather(spec, place(tmp_path, {"a": "number"}))
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    with pytest.raises(SourceError) as caught:
        gather(spec, place(tmp_path, {"a": "number"}))
    for text in (str(caught.value), source_name(spec), str(spec.model_dump())):
        assert "hunter2" not in text
    assert "treadle:***@" in str(caught.value)
    good = source(sql=written, query="SELECT 1 AS a, 'p' AS y")
    kept, _ = gather(good, place(tmp_path, {"a": "number"}))
    assert kept[0].fields == {"a": 1.0, "y": "p"}


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@h/db", "postgresql://h/db?user=me&password=hunter2"])
def test_a_password_in_the_file_is_refused_and_not_shown(url: str) -> None:
    found = read(f"name: a\ndata: {{sources: [{{sql: '{url}', query: SELECT 1, licence: x}}]}}\nmodel: {{trunk: mlp}}\n", "f")
    assert isinstance(found, list)
    text = "\n".join(map(str, found))
    assert "data.sources.0.sql: holds a password" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(("url", "said"), [
    ("sqlite:///none.db", "there is no database"), ("nonsense", "is no database URL"),
    ("oddbase://h/db", "no driver for oddbase"), ("postgresql+psycopg://me@127.0.0.1:1/x", "(?i)refused"),
])
def test_what_cannot_be_opened_is_told(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        gather(source(sql=url, query="SELECT 1"), place(tmp_path, {"a": "number"}))
    assert list(tmp_path.iterdir()) == []
