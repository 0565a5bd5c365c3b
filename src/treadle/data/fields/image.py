"""A picture, from whatever file holds it to (H, W, C) bytes of one size."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from treadle.core.layout import Layout
from treadle.data.augment import ImageChange
from treadle.data.columns import Array, Augment, Column
from treadle.data.fields.base import BadValue, Field
from treadle.data.record import MEDIA

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What is decoded: formats whose decoders run no other program."""
_FITTED = 10_000  # pictures that the mean and the deviation are taken from, evenly spread over the train part


class ImageField(Field):
    """uint8 (N, H, W, C): scaled to cover the size, and the middle cut out. The model takes off the train part's mean."""

    arrow = MEDIA

    def parse(self, raw: Any) -> dict[str, Any]:
        """``{"bytes", "path"}``, bytes, base64 or a data: URL -> ``{"bytes", "path"}``, the bytes as they came."""
        data, path = _bytes(raw)
        self._pixels(data)
        return {"bytes": data, "path": path}

    def fit(self, values: Sequence[Mapping[str, Any]]) -> None:
        step = max(1, math.ceil(len(values) / _FITTED))
        pixels = self.encode(values[::step]).values.reshape(-1, self._channels)
        self.mean = [float(channel.mean()) for channel in pixels.T]
        self.deviation = [float(channel.std(dtype=np.float64)) or 1.0 for channel in pixels.T]

    def encode(self, values: Sequence[Mapping[str, Any]]) -> Column:
        high, wide = self.settings.extent
        found = np.empty((len(values), high, wide, self._channels), np.uint8)
        for number, value in enumerate(values):
            found[number] = self._pixels(value["bytes"])
        return Column(found)

    def _pixels(self, data: bytes) -> Array:
        """(H, W, C). Raises ``BadValue``."""
        high, wide = self.settings.extent
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadValue("image too large", f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
                image.draft(None, (max(high, wide),) * 2)  # a JPEG is decoded no larger than needed
                plain = _plain(ImageOps.exif_transpose(image), self.settings.grey)
        except BadValue:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadValue("image too large", str(error)) from None
        except Exception as error:  # decoders raise whatever they stumble over
            raise BadValue("not an image", f"{type(error).__name__}: {error}"[:200]) from None
        if plain.size != (wide, high):
            plain = ImageOps.fit(plain, (wide, high), Image.Resampling.BICUBIC)
        return np.asarray(plain).reshape(high, wide, self._channels)

    def change(self, seed: int) -> Augment | None:
        wanted = self.settings.augment
        return ImageChange(wanted, seed, self.mean) if any((
            wanted.crop, wanted.flip, wanted.rotate, wanted.scale, wanted.colour, wanted.cutout
        )) else None

    @property
    def _channels(self) -> int:
        return 1 if self.settings.grey else 3

    @property
    def layout(self) -> Layout:
        """``mean`` and ``deviation`` of each channel, 0 to 255."""
        high, wide = self.settings.extent
        return Layout(
            "image", height=high, width=wide, channels=self._channels, patch=self.settings.square,
            mean=tuple(self.mean), deviation=tuple(self.deviation),
        )

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = list(state["mean"]), list(state["deviation"])


def _bytes(raw: Any) -> tuple[bytes, str | None]:
    path = None
    if isinstance(raw, Mapping):
        raw, path = raw.get("bytes"), raw.get("path")
    if raw is None or raw in ("", b""):
        raise BadValue("no image")
    if isinstance(raw, str):
        head, comma, text = raw.partition(",")
        if raw.startswith("data:") and not (comma and head.endswith(";base64")):
            raise BadValue("not an image", "a data: URL must say ';base64,' before its content")
        try:
            raw = base64.b64decode("".join((text if raw.startswith("data:") else raw).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadValue("not an image", f"neither bytes nor base64: {error}") from None
    if not isinstance(raw, bytes):
        raise BadValue("not an image", f"a value of type {type(raw).__name__}")
    return raw, path if isinstance(path, str) else None


def _plain(image: Image.Image, grey: bool) -> Image.Image:
    """Eight bits of grey or RGB; what is transparent on white, 16 bits by their upper eight."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.clip(np.asarray(image, np.int64), 0, 65_535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return image.convert("L" if grey else "RGB")
