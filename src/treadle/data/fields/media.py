"""Files as values of a record: images and recordings as they come, from a source or a request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from treadle.data.fields.base import BadValue


def parse_media(raw: Any, what: str) -> dict[str, Any]:
    """``{"bytes", "path"}`` as ``data.record.MEDIA`` holds it, from that, from bytes, or from base64 text with or without
    ``data:TYPE;base64,`` before it. Raises ``BadValue`` where there is no ``what``, or the text is no base64."""
    if isinstance(raw, str):
        head, _, text = raw.strip().rpartition(",")
        if head and not (head.startswith("data:") and head.endswith(";base64")):
            raise BadValue(f"not a {what}", "neither base64 nor a data: URL in base64")
        try:
            raw = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadValue(f"not a {what}", "neither base64 nor a data: URL in base64") from None
    if isinstance(raw, bytes):
        raw = {"bytes": raw, "path": None}
    content = raw.get("bytes") if isinstance(raw, Mapping) else None
    if not content:
        raise BadValue(f"no {what}" if raw is None else f"empty {what}")
    if not isinstance(content, bytes):
        raise BadValue(f"not a {what}", f"{type(content).__name__} is no file's content")
    return {"bytes": content, "path": raw.get("path")}
