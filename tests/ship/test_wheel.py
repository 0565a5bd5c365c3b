"""Treadle's own wheel and the pins of all else: what pip installs of them is what runs here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import treadle
from treadle.core.errors import WorkError
from treadle.ship.requirements import pins
from treadle.ship.wheel import write_wheel

SOURCE = Path(treadle.__file__).parent


def test_pip_installs_the_wheel_and_it_holds_every_file(tmp_path: Path):
    wheel = write_wheel(tmp_path)
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(tmp_path / "to"), str(wheel)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert (tmp_path / "to" / "treadle" / path.relative_to(SOURCE)).read_bytes() == path.read_bytes()
    asked = [sys.executable, "-m", "treadle", "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path / "to")}, cwd=tmp_path)
    assert done.stdout.strip() == treadle.__version__
    assert (tmp_path / "to" / "bin" / "treadle").exists()


def test_equal_files_make_equal_wheels_with_the_licences_inside(tmp_path: Path):
    (tmp_path / "again").mkdir()
    first, second = write_wheel(tmp_path), write_wheel(tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    names = zipfile.ZipFile(first).namelist()
    assert f"treadle-{treadle.__version__}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if "__pycache__" in name]


class _Distribution(metadata.Distribution):
    def __init__(self, version: str, requires: list[str]) -> None:
        lines = [f"Name: x\nVersion: {version}", *(f"Requires-Dist: {line}" for line in requires), ""]
        self.text = "\n".join(lines)

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise AssertionError


def installed(monkeypatch: pytest.MonkeyPatch, **found: tuple[str, list[str]]) -> None:
    def distribution(name: str) -> metadata.Distribution:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return _Distribution(*found[name])

    monkeypatch.setattr(metadata, "distribution", distribution)


def test_code_that_is_not_installed_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch)
    with pytest.raises(WorkError, match="is not installed") as raised:
        write_wheel(tmp_path)
    assert "pip install -e ." in raised.value.cure
    installed(monkeypatch, treadle=("0.0.9", []))
    with pytest.raises(WorkError, match=r"pip installed 0\.0\.9"):
        write_wheel(tmp_path)


def test_pins_are_what_is_installed_and_satisfy_each_other():
    found = pins()
    for name, version in found.items():
        assert metadata.version(name).partition("+")[0] == version
    for line in metadata.requires("treadle") or ():
        wanted = Requirement(line)
        if wanted.marker is None:
            assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), line
    assert {"torch", "uvicorn", "starlette", "h11"} <= set(found)
    assert not {"treadle", "pytest", "mypy", "scikit-learn"} & set(found)


def test_pins_follow_extras_and_markers_and_leave_gpus_out(monkeypatch: pytest.MonkeyPatch):
    installed(
        monkeypatch, treadle=("1", ["A[fast]>=1", 'b; sys_platform == "win32"', 'c; extra == "dev"', 'e; sys_platform == "linux"']),
        a=("2.1+cpu", ['d; extra == "fast"', "nvidia-thing", "triton", "treadle"]), d=("3", []), e=("4", []),
    )
    assert pins() == {"a": "2.1", "d": "3", "e": "4"}
    installed(monkeypatch, treadle=("1", ["a", 'c; extra == "otel"']), a=("2", []), c=("5", []))
    assert pins("treadle[otel]") == {"a": "2", "c": "5"}
    assert pins() == {"a": "2"}


def test_what_is_needed_and_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, treadle=("1", ["absent>=2"]))
    with pytest.raises(WorkError, match="absent, which treadle needs, is not installed") as raised:
        pins()
    assert "absent>=2" in raised.value.cure
