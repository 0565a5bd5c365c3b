"""A picture, from whatever file holds it to (H, W, C) bytes of one size."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from treadle.core.layout import Layout
from treadle.data.augment import ImageChange
from treadle.data.columns import Array, Augment, Column
from treadle.data.fields.base import BadValue, Field
from treadle.data.fields.media import parse_media
from treadle.data.record import MEDIA

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What is decoded: formats whose decoders run no other program."""
_ORIENTATION = 0x0112  # of EXIF
_PAPER = 128
_BARE = re.compile(rb"P([56])\n(\d{1,5}) (\d{1,5})\n255\n")
_FITTED = 10_000  # pictures that the mean and the deviation are taken from, evenly spread over the train part


@dataclass(frozen=True)
class Window:
    """A picture's own width and height, and the part of it that is seen: left, top, width and height, in its pixels. Where the
    picture is padded the part reaches beyond it."""

    wide: float
    high: float
    left: float
    top: float
    across: float
    down: float


class ImageField(Field):
    """uint8 (N, H, W, C), brought to the size as ``fit`` says. The model takes off the train part's mean."""

    mirrored = True
    """Whether what comes in from outside in training is the picture's own reflection, rather than its mean."""

    arrow = MEDIA

    def parse(self, raw: Any) -> dict[str, Any]:
        """``{"bytes", "path"}``, bytes, base64 or a data: URL -> ``{"bytes", "path"}``, the bytes as they came."""
        found = parse_media(raw, "an image")
        if _bare(found["bytes"]) is None:  # bare pixels of the right number are a picture
            self._pixels(found["bytes"])
        return found

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
        bare = _bare(data)
        if bare is not None and bare.shape == (high, wide, self._channels):
            return bare
        with _opened(data) as image:
            image.draft(None, (max(high, wide),) * 2)  # a JPEG is decoded no larger than needed
            ImageOps.exif_transpose(image, in_place=True)
            plain = _plain(image, self.settings.grey)
        if plain.size != (wide, high):
            plain = _fitted(plain, (wide, high), self.settings.fit, self._paper)
        return np.frombuffer(plain.tobytes(), np.uint8).reshape(high, wide, self._channels)

    @property
    def _paper(self) -> tuple[int, ...]:
        """What stands beside a picture that does not fill the size."""
        return (_PAPER,) * self._channels

    def window(self, data: bytes) -> Window:
        """The part of a picture that the model sees, in pixels of the whole picture as it is seen."""
        with _opened(data) as image:
            size = image.size
            if image.getexif().get(_ORIENTATION, 1) >= 5 and image.format != "TIFF":  # on its side; of TIFF Pillow knows already
                size = (size[1], size[0])
        high, wide = self.settings.extent
        return window(size, (wide, high), self.settings.fit)

    def change(self, seed: int) -> Augment | None:
        wanted = self.settings.augment
        return ImageChange(wanted, seed, self.mean, self.mirrored) if any((
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


def window(size: tuple[int, int], wanted: tuple[int, int], fit: str) -> Window:
    """Of a picture of ``size`` (width, height), what is seen where it is brought to the ``wanted`` size by ``fit``."""
    (wide, high), (right, bottom) = size, wanted
    if fit == "stretch":
        return Window(wide, high, 0.0, 0.0, wide, high)
    if fit == "pad":
        inner = _inside(size, wanted)
        across, down = wide / inner[0], high / inner[1]
        left, top = ((whole - part) // 2 for whole, part in zip(wanted, inner, strict=True))
        return Window(wide, high, -left * across, -top * down, right * across, bottom * down)
    scale = min(wide / right, high / bottom)
    across, down = right * scale, bottom * scale
    return Window(wide, high, (wide - across) / 2, (high - down) / 2, across, down)


def _inside(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that ``wanted`` holds."""
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fitted(plain: Image.Image, wanted: tuple[int, int], fit: str, paper: tuple[int, ...]) -> Image.Image:
    """The picture brought to the ``wanted`` size, as ``window`` says."""
    method = Image.Resampling.BICUBIC
    if fit == "cover":
        return ImageOps.fit(plain, wanted, method)
    if fit == "stretch":
        return plain.resize(wanted, method)
    inner = _inside(plain.size, wanted)
    sheet = Image.new(plain.mode, wanted, paper[0] if len(paper) == 1 else paper)
    left, top = ((whole - part) // 2 for whole, part in zip(wanted, inner, strict=True))
    sheet.paste(plain.resize(inner, method), (left, top))
    return sheet


def _bare(data: bytes) -> Array | None:
    """(H, W, C) of a PGM or PPM file of bytes with a plain head, which needs no decoder; None: it is something else."""
    head = _BARE.match(data)
    if head is None:
        return None
    wide, high, channels = int(head[2]), int(head[3]), 1 if head[1] == b"5" else 3
    if not 0 < wide * high <= MAX_PIXELS or len(data) - head.end() != wide * high * channels:
        return None
    return np.frombuffer(data, np.uint8, offset=head.end()).reshape(high, wide, channels)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture, its pixels not read yet. What goes wrong with it, there or inside, is a ``BadValue``."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadValue("image too large", f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
            yield image
    except BadValue:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadValue("image too large", str(error)) from None
    except Exception as error:  # decoders raise whatever they stumble over
        raise BadValue("not an image", f"{type(error).__name__}: {error}"[:200]) from None


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
