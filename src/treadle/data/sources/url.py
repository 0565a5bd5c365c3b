"""A file from the network, downloaded once: kept by the hash that it must have, and taken up again where a download stopped."""

from __future__ import annotations

import hashlib
import http.client
import os
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from treadle.core.errors import SourceError
from treadle.core.progress import task
from treadle.data.sources.base import Place
from treadle.spec.data import AnySource, UrlSource

_BLOCK = 1 << 18
_PATIENCE = 60.0  # seconds without a byte


def fetched(spec: UrlSource, place: Place) -> AnySource:
    """The source that reads the file, which is downloaded if it is not there. Raises ``SourceError`` where it cannot be had, or is
    another file than the hash says."""
    path = local_file(spec, place)
    if not (path.exists() and _sha256(path) == spec.sha256):
        _download(spec, path, place.key)
    return reading(spec, place)


def reading(spec: UrlSource, place: Place) -> AnySource:
    """The source that reads the file where it lies, be it there or not."""
    return spec.reading(os.path.relpath(local_file(spec, place), place.folder))


def local_file(spec: UrlSource, place: Place) -> Path:
    """Where the file lies once it is downloaded."""
    return place.cache / spec.sha256[:16] / spec.name


def _download(spec: UrlSource, path: Path, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _receive(spec.url, part)
    except (HTTPError, URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        kept = f"; {part.stat().st_size} bytes are kept, so run it again to go on" if part.exists() else ""
        raise SourceError(f"{key}.url: cannot download {spec.url}: {reason}", cure=f"check the URL and the network{kept}") from None
    found = _sha256(part)
    if found != spec.sha256:
        part.unlink()
        message = f"{key}.sha256: {spec.url} is another file than expected: expected {spec.sha256}, found {found}"
        raise SourceError(message, cure="find out why; if the new content is wanted, write its hash")
    part.replace(path)


def _receive(url: str, part: Path) -> None:
    """Append what ``part`` lacks; from the start where the server cannot go on."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urlopen(request, timeout=_PATIENCE)
    except HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing is left, or the file has changed
            raise
        part.unlink()
        answer = urlopen(url, timeout=_PATIENCE)
        have = 0
    with answer:
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with part.open("ab" if have else "wb") as out, task(f"downloading {url}", total or 1, "bytes") as work:
            work.done = have
            while block := answer.read(_BLOCK):
                out.write(block)
                work.advance(len(block))
    if total and part.stat().st_size != total:
        raise URLError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
