"""Paths that treadle.yaml names: below the project's folder, or inside an installed Python package. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from treadle.core.errors import UserError

_BLOCK = 1 << 20


def find_path(text: str, folder: Path) -> Path:
    """``text`` as a path: relative ones start at ``folder``, ``{package:NAME}`` is the folder of the installed package NAME, which
    is not imported. Raises ``UserError`` where the package or the path is not there."""
    start = re.match(r"\{package:(\w+)\}(?=/|$)", text)
    if start is None:
        if "{" in text:
            raise UserError(f"{text!r} is not understood", cure="only {package:NAME} is known, at the start of the path")
        path = folder / text
    else:
        spec = find_spec(start.group(1))
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            cure = f"pip install {start.group(1).replace('_', '-')}"
            raise UserError(f"{text!r} names a Python package that is not installed", cure=cure)
        path = Path(places[0]) / text[start.end() :].lstrip("/")
    if not path.exists():
        raise UserError(f"{text!r} names {path}, which is not there", cure="mend the path, which starts at the project's folder")
    return path


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
