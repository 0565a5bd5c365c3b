"""A local folder as the library ``datasets`` opens it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from rows_world import gather, place, source

from treadle.core.errors import SourceError


def test_a_local_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("the library 'datasets' is not installed: pip install 'treadle[hub]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"a": Value("float32"), "y": ClassLabel(names=["no", "yes"])})
    made = Dataset.from_dict({"a": [1.0, 2.0, 3.0], "y": [0, 1, -1]}, features=features)
    (tmp_path / "set").mkdir()
    made.to_parquet(tmp_path / "set" / "test.parquet")
    kept, aside = gather(source(dataset="set", rows="test"), place(tmp_path, {"a": "number"}))
    assert [r.fields for r in kept] == [{"a": 1.0, "y": "no"}, {"a": 2.0, "y": "yes"}]
    assert [s.reason for s in aside] == ["no answer"]
    with pytest.raises(SourceError, match="cannot load 'set'"):
        gather(source(dataset="set", rows="other"), place(tmp_path, {"a": "number"}))


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match="needs the library 'datasets'") as caught:
        gather(source(dataset="some/name"), place(tmp_path, {"a": "number"}))
    assert json.dumps(caught.value.cure) == "\"pip install 'treadle[hub]'\""
