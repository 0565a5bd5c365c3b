"""Treadle itself as a wheel, of the very files that run here: no index is asked, and what answers elsewhere is what answers here.

The format is that of the Binary Distribution Format, https://packaging.python.org/specifications/binary-distribution-format."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import treadle
from treadle.core.errors import WorkError

_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: equal files make equal wheels


def write_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder`` and give its path. Raises ``WorkError`` where no installation describes what runs."""
    distribution = _installed()
    info = f"treadle-{treadle.__version__}.dist-info"
    wheel = folder / f"treadle-{treadle.__version__}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (*_modules(), *_about(distribution, info)):
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
            _add(archive, name, content)
        _add(archive, f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]).encode())
    return wheel


def _installed() -> metadata.Distribution:
    """What pip knows of Treadle. Raises ``WorkError`` where it is absent, or of another version than the code."""
    source = Path(treadle.__file__).parent
    cure = "install Treadle with pip into this Python, in its checkout with: python -m pip install -e ."
    try:
        found = metadata.distribution("treadle")
    except metadata.PackageNotFoundError:
        message = f"Treadle runs from {source} and is not installed, so that no wheel can be made of it"
        raise WorkError(message, cure=cure) from None
    if found.version != treadle.__version__:
        message = f"Treadle {treadle.__version__} runs from {source}, but pip installed {found.version}"
        raise WorkError(message, cure=cure)
    return found


def _modules() -> Iterator[tuple[str, bytes]]:
    """Name in the wheel and content of each of the package's files."""
    source = Path(treadle.__file__).parent
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"treadle/{path.relative_to(source).as_posix()}", path.read_bytes()


def _about(distribution: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    """Likewise of what pip reads: metadata, the command, the licences."""
    for name in ("METADATA", "entry_points.txt"):
        yield f"{info}/{name}", (distribution.read_text(name) or "").encode()
    yield f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: treadle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    for file in distribution.files or ():
        folder, *inside = file.parts
        if folder.endswith(".dist-info") and inside[0] == "licenses":
            yield f"{info}/{'/'.join(inside)}", file.read_binary()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
