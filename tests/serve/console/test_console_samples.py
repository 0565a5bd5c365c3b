"""Pages of records, read from groups of rows; and what of a record can be seen or heard."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path

import pytest
from every_input import png, wave
from PIL import Image

from treadle.console import media, samples
from treadle.data.record import Record, write_records


@pytest.mark.parametrize("skip", [0, 490, 500, 511, 512, 513, 1023, 1024, 1090, 1099, 1100, 5000])
def test_a_page_is_the_records_from_there_on_whatever_groups_they_lie_in(tmp_path: Path, skip: int) -> None:
    records = [Record(str(n), {"text": f"text {n}"}, f"file {n}", "CC0-1.0", str(n)) for n in range(1100)]
    write_records(tmp_path / "records.parquet", records, ["text"])
    total, rows = samples._records(tmp_path, skip)
    assert total == 1100
    assert [row["source"] for row in rows] == [record.source for record in records[skip : skip + 20]]
    assert [row["fields"] for row in rows] == [[("text", None, f"text {n}")] for n in range(skip, min(skip + 20, 1100))]


def test_a_picture_is_drawn_anew_and_small() -> None:
    hidden = png(90, 600) + b"<script>alert(1)</script>"
    shown = media.shown(base64.b64encode(hidden).decode(), "photo")
    assert shown is not None
    found = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    with Image.open(io.BytesIO(found)) as picture:
        assert (picture.format, picture.size) == ("PNG", (240, 240))
    assert b"script" not in found
    assert "photo: a picture of 600 by 600 pixels" in shown


def test_a_recording_can_be_played_and_what_is_neither_is_nothing() -> None:
    shown = media.shown(wave(440), "sound")
    assert shown is not None
    assert shown.startswith('<audio src="data:audio/wav;base64,')
    drawing = base64.b64encode(b"<svg onload=alert(1)>" * 9).decode()
    for value in ("", "just a text", drawing, b"\x89PNG\r\n\x1a\n broken", "é" * 99):
        assert media.shown(value, "x") is None, value


def test_a_picture_that_would_fill_the_memory_is_not_drawn() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    assert "<img" not in (media.shown(bomb, "x") or "")


@pytest.mark.parametrize("name", ["a<b>", 'a" onerror="x'])
def test_the_name_of_a_column_is_text(name: str) -> None:
    shown = media.shown(png(10), name)
    assert shown is not None
    assert name not in shown
