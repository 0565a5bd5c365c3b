"""Pictures and recordings of records on a page. A picture is drawn anew and small, so that nothing but its dots gets there."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps

from treadle.report.html import Html, tag
from treadle.spec.units import format_size

_SIDE = 240
_LEAST = 60  # characters of base64; no picture or recording is smaller
_MOST_PIXELS = 50_000_000
_MOST_SOUND = 8_000_000  # bytes of a recording that is made part of a page
_SOUNDS = (
    (b"RIFF", "audio/wav"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"), (b"\xff\xfb", "audio/mpeg"),
)
"""What a file begins with, and its media type."""


def shown(value: str | bytes, name: str) -> Html | None:
    """An element that shows the picture, or plays the recording, whose bytes, or their base64, ``value`` is; None where it is
    neither. ``name`` is that of its column."""
    if isinstance(value, str):
        if len(value) < _LEAST:
            return None
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    return _picture(value, name) or _sound(value, name)


def _picture(content: bytes, name: str) -> Html | None:
    drawn = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")) as picture:
                wide, high = picture.size
                if wide * high > _MOST_PIXELS:
                    return tag("span", f"a picture of {wide} by {high} pixels, too large to be drawn here")
                small = ImageOps.exif_transpose(picture).convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        small.save(drawn, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None
    source = f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"
    return tag("img", src=source, alt=f"{name}: a picture of {wide} by {high} pixels", width=small.width, height=small.height)


def _sound(content: bytes, name: str) -> Html | None:
    kind = next((kind for start, kind in _SOUNDS if content.startswith(start)), None)
    if kind is None:
        return None
    if len(content) > _MOST_SOUND:
        return tag("span", f"a recording of {format_size(len(content))}, too large to be played here")
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return tag("audio", src=source, controls="", preload="none", aria_label=f"{name}: a recording of {format_size(len(content))}")
