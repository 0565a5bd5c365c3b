"""Files as values of a record: images and recordings as they come, from a source or a request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from treadle.data.fields.base import BadValue


def parse_media(raw: Any, what: str) -> dict[str, Any]:
    """``{"bytes", "path"}`` as ``data.record.MEDIA`` holds it, from that, from bytes, or from base64 text with or without
    ``data:TYPE;base64,`` before it. ``what`` it should be, such as ``an image``, names the reason of the ``BadValue``."""
    path, kind = None, what.partition(" ")[2]
    if isinstance(raw, Mapping):
        raw, path = raw.get("bytes"), raw.get("path")
    if raw is None:
        raise BadValue(f"no {kind}")
    if isinstance(raw, str):
        head, _, text = raw.partition(",")
        url = raw.startswith("data:")
        if url and not head.endswith(";base64"):
            raise BadValue(f"not {what}", "a data: URL must say ';base64,' before its content")
        try:
            raw = base64.b64decode("".join((text if url else raw).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadValue(f"not {what}", f"neither bytes nor base64: {error}") from None
    if not isinstance(raw, bytes):
        raise BadValue(f"not {what}", f"a value of type {type(raw).__name__} is no file's content")
    if not raw:
        raise BadValue(f"empty {kind}")
    return {"bytes": raw, "path": path if isinstance(path, str) else None}
