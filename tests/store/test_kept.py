"""Findings that hold: by what they follow from, over processes, whatever happened to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.store.kept import Kept


def test_a_finding_is_found_by_all_that_it_follows_from(tmp_path: Path):
    kept = Kept(tmp_path / "deeper" / "found.json")
    assert kept.find(["rate", {"a": 1, "b": 2}]) is None
    kept.keep(["rate", {"a": 1, "b": 2}], {"rate": 0.003})
    kept.keep(["rate", {"a": 2, "b": 2}], {"rate": 0.004})
    again = Kept(tmp_path / "deeper" / "found.json")
    assert again.find(["rate", {"b": 2, "a": 1}]) == {"rate": 0.003}
    assert again.find(["rate", {"a": 2, "b": 2}]) == {"rate": 0.004}
    assert again.find(["batch", {"a": 1, "b": 2}]) is None


@pytest.mark.parametrize("content", ["{cut", "[]", "3", ""])
def test_a_damaged_file_holds_nothing_and_is_written_anew(tmp_path: Path, content: str):
    file = tmp_path / "found.json"
    file.write_text(content)
    kept = Kept(file)
    assert kept.find("x") is None
    kept.keep("x", {"y": 1})
    assert kept.find("x") == {"y": 1}
