"""What is installed: pinned for every supported Python, documented, and nothing that points to one machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
PINS = [Requirement(line) for line in LINES]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_pinned_within_its_range(python: str) -> None:
    pins = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert canonicalize_name(pin.name) not in pins, f"{pin.name} has two pins for Python {python}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            pins[canonicalize_name(pin.name)] = specifier.version
    for wanted in (*RUNTIME, *EXTRAS):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), f"{wanted} is pinned to another version"
    assert pins["torch"] == "2.13.0"


def test_pins_name_no_place_and_no_build() -> None:
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+( ; python_version (==|>=) \"3\.\d+\")?", line), line


def test_every_dependency_is_documented() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = {canonicalize_name(name) for name in re.findall(r"^\| `([\w.\-]+)(?:\[\w+\])?` \|", page, re.MULTILINE)}
    wanted = {canonicalize_name(requirement.name) for requirement in (*RUNTIME, *EXTRAS)}
    assert rows == wanted


def test_the_version_is_in_the_changelog() -> None:
    import treadle

    assert f"## [{treadle.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
