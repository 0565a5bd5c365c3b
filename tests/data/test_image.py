"""Pictures of every make as bytes of one size."""

from __future__ import annotations

import base64
import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from treadle.data.fields import image as module
from treadle.data.fields.base import BadValue
from treadle.data.fields.image import ImageField
from treadle.spec.inputs import Image as Settings


def field(**settings: Any) -> ImageField:
    return ImageField("photo", Settings.model_validate({"size": 4} | settings), ["photo"])


def packed(picture: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **more)
    return stream.getvalue()


def pixels(data: bytes, **settings: Any) -> np.ndarray:
    made = field(**settings)
    return made.encode([made.parse(data)]).values[0]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))


def test_every_way_that_a_picture_comes():
    data = packed(NOISE)
    text = base64.b64encode(data).decode()
    made = field()
    url = f"data:image/png;base64,{text}"
    for raw in (data, {"bytes": data, "path": None}, {"bytes": text}, text, text[:8] + "\n" + text[8:], url):
        assert made.parse(raw) == {"bytes": data, "path": None}
    assert made.parse({"bytes": data, "path": "a.png"})["path"] == "a.png"
    for raw, reason in (
        (None, "no image"), ("", "empty image"), ({"bytes": None, "path": "/etc/passwd"}, "no image"), (3, "not an image"),
        ("/etc/passwd", "not an image"), ("data:image/png,abc", "not an image"),
        (data[: len(data) // 2], "not an image"), (b"junk", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "not an image"),
    ):
        with pytest.raises(BadValue) as caught:
            made.parse(raw)
        assert caught.value.reason == reason, raw


def test_a_picture_of_the_size_keeps_its_pixels():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert (pixels(packed(NOISE, kind)) == np.asarray(NOISE)).all()
    assert (pixels(packed(NOISE), grey=True)[..., 0] == np.asarray(NOISE.convert("L"))).all()


def test_it_is_scaled_to_cover_and_the_middle_cut_out():
    wide = Image.new("RGB", (40, 8), "red")
    wide.paste((0, 0, 255), (12, 0, 28, 8))
    found = pixels(packed(wide), size=[4, 4])
    assert (found == (0, 0, 255)).all()
    assert pixels(packed(wide), size=[2, 10]).shape == (2, 10, 3)
    assert (pixels(packed(wide), size=[2, 10])[:, 0] == (255, 0, 0)).all()


def test_bare_pixels_are_read_as_pillow_reads_them(monkeypatch: pytest.MonkeyPatch):
    array = np.asarray(NOISE)
    grey, colour = (packed(Image.fromarray(a), "PPM") for a in (array[..., 0], array))
    for data, settings in ((grey, {"grey": True}), (colour, {}), (grey, {}), (colour, {"grey": True}), (colour, {"size": 3})):
        plain = pixels(data, **settings)
        assert (plain == pixels(packed(Image.open(io.BytesIO(data))), **settings)).all()
    with monkeypatch.context() as patched:
        patched.setattr(module.Image, "open", lambda *_, **__: pytest.fail("pixels of the right size need no decoder"))
        assert (pixels(grey, grey=True)[..., 0] == array[..., 0]).all()
        assert (pixels(colour) == array).all()
    for data in (colour[:-1], b"P6\n0 4\n255\n", b"P6\n4 4\n256\n" + bytes(96), b"P6\n99999 99999\n255\n"):
        with contextlib.suppress(BadValue):
            field().parse(data)
            assert pixels(data).shape == (4, 4, 3)


def test_it_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    data = packed(NOISE, "TIFF", exif=exif)
    assert (pixels(data) == np.rot90(np.asarray(NOISE), -1)).all()


def test_every_mode():
    array = np.asarray(NOISE)
    grey = array[..., 0]
    clear = np.dstack([array, np.where(grey > 128, 255, 0).astype(np.uint8)])
    white = np.where(clear[..., 3:] == 255, array, 255)
    assert (pixels(packed(Image.fromarray(clear))) == white).all()
    palette = NOISE.quantize(16)
    assert (pixels(packed(palette)) == np.asarray(palette.convert("RGB"))).all()
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (pixels(packed(palette, transparency=palette.getpixel((0, 0))))[0, 0] == 255).all()
    sixteen = packed(Image.fromarray(grey.astype(np.uint16) * 256 + 77))
    assert (pixels(sixteen)[..., 0] == grey).all()
    assert (pixels(packed(Image.fromarray(grey > 128))) == (grey > 128)[..., None] * 255).all()
    ink = NOISE.convert("CMYK")
    assert (pixels(packed(ink, "TIFF")) == np.asarray(ink.convert("RGB"))).all()
    assert np.abs(pixels(packed(ink, "JPEG", quality=100, subsampling=0)).astype(int) - np.asarray(NOISE)).mean() < 8
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert (pixels(packed(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)).all()


def test_a_picture_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    data = packed(Image.new("1", (300, 300)))
    for target, limit, said in ((module, "MAX_PIXELS", "90000"), (Image, "MAX_IMAGE_PIXELS", "pixels")):
        with monkeypatch.context() as patched:
            value = 300 * 300 - 1 if target is module else 300 * 100
            patched.setattr(target, limit, value)
            with pytest.raises(BadValue, match="image too large") as caught:
                field().parse(data)
            assert said in caught.value.detail or "300 x 300" in caught.value.detail
    assert field().parse(data)


def test_mean_and_deviation_are_those_of_the_train_part():
    generator = np.random.default_rng(1)
    arrays = generator.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    made = field()
    made.fit([made.parse(packed(Image.fromarray(array))) for array in arrays])
    flat = arrays.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(made.mean, flat.mean(0))
    np.testing.assert_allclose(made.deviation, flat.std(0))
    again = field()
    again.restore(made.state())
    assert again.layout == made.layout
    assert (made.layout.height, made.layout.width, made.layout.channels, made.layout.patch) == (4, 4, 3, 1)
    black = field(grey=True)
    black.fit([made.parse(packed(Image.new("RGB", (4, 4))))])
    assert (black.mean, black.deviation) == ([0.0], [1.0])


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6\n", b"\xff\xd8\xff"]))
def test_bytes_are_a_picture_or_a_bad_value(data: bytes, start: bytes):
    made = field()
    with contextlib.suppress(BadValue):
        assert made.encode([made.parse(start + data)]).values.shape == (1, 4, 4, 3)
