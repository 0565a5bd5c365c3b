"""Pictures of records on a page: drawn anew and small, so that nothing but their dots gets there."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, ImageOps

from treadle.report.html import Html, tag

_SIDE = 240
_LEAST = 100  # characters of base64; no picture is smaller
_MOST_PIXELS = 50_000_000


def thumbnail(value: str | bytes) -> Html | None:
    """An ``img`` of the picture whose bytes, or their base64, ``value`` is; None where it is no picture."""
    if isinstance(value, str):
        if len(value) < _LEAST:
            return None
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    drawn = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(value), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    return None
                wide, high = picture.size
                small = ImageOps.exif_transpose(picture).convert("RGB")
                small.thumbnail((_SIDE, _SIDE))
                small.save(drawn, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None
    source = f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"
    return tag("img", src=source, alt=f"a picture of {wide} by {high} pixels", width=small.width, height=small.height)
