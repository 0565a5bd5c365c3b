"""Tables in every form that people keep them in, and every way in which those are broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_world import gather, place, source

from treadle.core.errors import SourceError
from treadle.data.record import SetAside
from treadle.data.sources.table import find_delimiter, table_rows

Text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
Cells = st.one_of(Text, st.sampled_from(['"', '""', "\n", "\r\n", "a,b", ";", "\t", "'", " x ", "=1+1", "\u2028", "\ufeff"]))


def rows(folder: Path, name: str, **keys: object) -> list[object]:
    return [row for _, row in table_rows(source(table=name, **keys), place(folder))]  # type: ignore[arg-type]


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(Cells, min_size=n, max_size=n), max_size=6)), st.sampled_from(",;\t|"))
@settings(deadline=None, max_examples=150)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], mark: str) -> None:
    folder = tmp_path_factory.mktemp("csv")
    width = len(table[0]) if table else 1
    names = [f"c{n}" for n in range(width)]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=mark, quoting=csv.QUOTE_ALL).writerows([names, *table])
    (folder / "t.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    found = rows(folder, "t.csv", delimiter=mark)
    assert [row for row in found if not isinstance(row, SetAside)] == [
        dict(zip(names, row, strict=True)) for row in table if row != names
    ]
    assert len(found) == len(table)


def test_signs_inside_quotes_and_rows_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n"x, ""y""\r\nz",1\r\n2,3')
    assert list(table_rows(source(table="t.csv"), place(tmp_path))) == [  # type: ignore[arg-type]
        ("t.csv:2", {"a": 'x, "y"\r\nz', "b": "1"}), ("t.csv:4", {"a": "2", "b": "3"}),
    ]


@pytest.mark.parametrize(("lines", "mark"), [
    (["a;b,c;d", "1;2,5;3"], ";"), (["a\tb c,d", "1\t2"], "\t"), (["a|b", "1|2"], "|"), (["a,b", '"x;y;z",2', '"p;q;r",3'], ","),
    (["one"], ","), ([], ","), (["a, b, c", "1, 2;3, 4"], ","),
])
def test_the_delimiter_is_the_one_that_cuts_alike(lines: list[str], mark: str) -> None:
    assert find_delimiter([line + "\n" for line in lines]) == mark


def test_ragged_rows_a_second_header_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,p\n1,p,q\n\n1\na,y\n2,q\n")
    kept, aside = gather(source(table="t.csv"), place(tmp_path, {"a": "number"}))
    assert [(r.source, r.fields) for r in kept] == [("t.csv:2", {"a": 1.0, "y": "p"}), ("t.csv:7", {"a": 2.0, "y": "q"})]
    assert [(s.source, s.reason) for s in aside] == [
        ("t.csv:3", "ragged row"), ("t.csv:5", "ragged row"), ("t.csv:6", "header again"),
    ]


def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('a\ty\nx\tp\n"He said\tq\nz\tp\n')
    with pytest.raises(SourceError, match=r"the quote that opens in t.tsv:3 is never closed") as caught:
        rows(tmp_path, "t.tsv")
    assert "quoted: false" in caught.value.cure
    assert [row["a"] for row in rows(tmp_path, "t.tsv", quoted=False)] == ["x", '"He said', "z"]  # type: ignore[index]


def test_two_encodings_are_refused_with_the_byte(tmp_path: Path) -> None:
    head = "a,y\n" + "é,1\n" * 20_000  # over more than one block
    (tmp_path / "t.csv").write_bytes(head.encode() + "ü,2\n".encode("latin-1"))
    with pytest.raises(SourceError, match=rf"t.csv is not utf-8: byte {len(head.encode())} \(0xfc\)") as caught:
        rows(tmp_path, "t.csv")
    assert "latin-1" in caught.value.cure
    (tmp_path / "l.csv").write_bytes("a,y\nü,2\n".encode("latin-1"))
    assert rows(tmp_path, "l.csv", encoding="latin-1") == [{"a": "ü", "y": "2"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "t.csv").write_bytes((mark + "a,b\n1,2\n").encode(encoding))
    (tmp_path / "t.jsonl").write_bytes((mark + '{"a": 1}\n').encode(encoding))
    said = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    assert rows(tmp_path, "t.csv", encoding=said) == [{"a": "1", "b": "2"}]
    assert rows(tmp_path, "t.jsonl", encoding=said) == [{"a": 1}]


def test_utf16_taken_for_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(SourceError, match="holds NUL bytes") as caught:
        rows(tmp_path, "t.csv")
    assert "utf-16" in caught.value.cure


def test_packed_files_and_damaged_ones(tmp_path: Path) -> None:
    data = gzip.compress(b"a,b\n1,2\n" * 2000)
    (tmp_path / "t.csv.gz").write_bytes(data)
    assert len(rows(tmp_path, "t.csv.gz")) == 3999
    for broken in (data[:-20], data[:30] + b"\xff" * 30 + data[60:], b"no gzip"):
        (tmp_path / "t.csv.gz").write_bytes(broken)
        with pytest.raises(SourceError, match=r"t.csv.gz cannot be read"):
            rows(tmp_path, "t.csv.gz")


@pytest.mark.parametrize("name", ["t.parquet", "t.xlsx"])
def test_what_is_not_what_its_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SourceError, match=r"cannot be read|no Excel file"):
        rows(tmp_path, name)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl"):
        (tmp_path / name).write_text("")
        assert rows(tmp_path, name) == []
    (tmp_path / "t.csv").write_text("a,b\n")
    assert rows(tmp_path, "t.csv") == []


def test_a_name_twice_is_refused_and_no_name_is_given_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(SourceError, match=r"names 'a' more than once"):
        rows(tmp_path, "t.csv")
    assert rows(tmp_path, "t.csv", columns=["a", "b", "c"])[1] == {"a": "1", "b": "2", "c": "3"}
    (tmp_path / "t.csv").write_text(",a\n0,x\n")
    assert rows(tmp_path, "t.csv") == [{"column 1": "0", "a": "x"}]


def test_excel_with_dates_a_title_and_a_merged_header(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Report"], ["Name", None, "Day", "Paid"], ["Ann", "Lee", datetime(2024, 2, 29), True], [None] * 4,
                ["Bob", None, date(2023, 1, 1), None]):
        sheet.append(row)
    sheet.merge_cells("A1:D1")
    sheet.merge_cells("A2:B2")
    book.create_sheet("other").append(["z"])
    book.save(tmp_path / "t.xlsx")
    assert list(table_rows(source(table="t.xlsx"), place(tmp_path))) == [  # type: ignore[arg-type]
        ("t.xlsx:3", {"Name": "Ann", "column 2": "Lee", "Day": datetime(2024, 2, 29), "Paid": True}),
        ("t.xlsx:5", {"Name": "Bob", "column 2": None, "Day": datetime(2023, 1, 1), "Paid": None}),
    ]
    kept, _ = gather(source(table="t.xlsx"), place(tmp_path, {"Day": "date"}, {"Name": "category"}))
    assert [r.fields["Day"] for r in kept] == [1709164800.0, 1672531200.0]
    with pytest.raises(SourceError, match="no sheet 'mine'") as caught:
        rows(tmp_path, "t.xlsx", sheet="mine")
    assert "other" in caught.value.cure


def test_nested_json_has_dotted_columns(tmp_path: Path) -> None:
    items = [{"user": {"age": 3, "home": {"city": "Rome"}}, "tags": ["a"], "y": "p"}, 7, {"user": None, "y": "q"}]
    (tmp_path / "t.json").write_text(json.dumps({"count": 2, "items": items}))
    kept, aside = gather(
        source(table="t.json"), place(tmp_path, {"user.age": "number", "user.home.city": "category", "tags": "set"})
    )
    assert [r.fields for r in kept] == [
        {"user.age": 3.0, "user.home.city": "Rome", "tags": ["a"], "y": "p"},
        {"user.age": None, "user.home.city": None, "tags": [], "y": "q"},
    ]
    assert [s.reason for s in aside] == ["not JSON"]
    (tmp_path / "t.json").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(SourceError, match=r"line 2, column 1") as caught:
        rows(tmp_path, "t.json")
    assert ".jsonl" in caught.value.cure


def test_json_lines_that_are_none_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"y": "p"}\n\n{"a": 2, "y": "q"\n[1]\n{"a": 2, "y": "q"}\n')
    kept, aside = gather(source(table="t.jsonl"), place(tmp_path, {"a": "number"}))
    assert [(r.source, r.fields["a"]) for r in kept] == [("t.jsonl:1", None), ("t.jsonl:5", 2.0)]
    assert [(s.source, s.reason) for s in aside] == [("t.jsonl:3", "not JSON"), ("t.jsonl:4", "not JSON")]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.5, None], "d": [date(2024, 1, 1), None], "y": ["p", "q"]}), tmp_path / "t.parquet")
    kept, _ = gather(source(table="t.parquet"), place(tmp_path, {"a": "number", "d": "date"}))
    assert [r.fields for r in kept] == [{"a": 1.5, "d": 1704067200.0, "y": "p"}, {"a": None, "d": None, "y": "q"}]


def test_missing_values_replaced_texts_and_a_limit(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n?,p.\n 3 ,p\n-9,q\n4,q\n")
    spec = source(table="t.csv", missing=["?", "-9"], replace={"y": {"p.": "p"}}, limit=3)
    kept, _ = gather(spec, place(tmp_path, {"a": "number"}))
    assert [tuple(r.fields.values()) for r in kept] == [(None, "p"), (3.0, "p"), (None, "q")]


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,job,y\n1,x,p\n")
    with pytest.raises(SourceError, match=r"no column 'ages', 'person'") as caught:
        gather(source(table="t.csv"), place(tmp_path, {"ages": "number"}, by="person"))
    assert "did you mean 'age' for 'ages'?" in caught.value.cure
    assert "age, job, y" in caught.value.cure


def test_a_group_is_a_columns_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("who,a,y\nann,1,p\nann,2,q\n,3,q\n")
    kept, aside = gather(source(table="t.csv"), place(tmp_path, {"a": "number"}, by="who"))
    assert [r.group for r in kept] == ["who=ann", "who=ann"]
    assert [s.reason for s in aside] == ["no group"]


def test_running_text_is_read_from_columns(tmp_path: Path) -> None:
    lines = [{"title": "One", "body": "first text"}, {"title": "Two", "body": None}, {"title": "", "body": ""},
             {"title": "Long", "body": "x" * 2000}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kept, aside = gather(source(table="t.jsonl"), place(tmp_path, columns=("title", "body")))
    assert [r.fields for r in kept] == [{"text": "One first text"}, {"text": "Two"}]
    assert [(s.reason, s.source) for s in aside] == [("empty", "t.jsonl:3"), ("too long", "t.jsonl:4")]
    with pytest.raises(SourceError, match="no column 'text'"):
        gather(source(table="t.jsonl"), place(tmp_path))
