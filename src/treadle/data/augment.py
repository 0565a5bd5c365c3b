"""Changes of pictures in training, for a whole batch at once. B pictures of H x W pixels and C channels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from treadle.data.chance import uniforms
from treadle.data.columns import Array, Augment, Numbers
from treadle.spec.inputs import ImageAugment

Floats = npt.NDArray[np.float64]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow turns colours into grey
_WIDTH = 1000  # pixels of a contact sheet
_ORANGE = (232, 89, 12)
_DRAWS = 10  # per picture: shift y and x, flip, turn, size, brightness, contrast, saturation, cut-out y and x


class ImageChange:
    """What ``wanted`` asks for, in the order turn and size, shift, flip, colours, cut-out; a pure function of (``seed``, the
    example's number)."""

    def __init__(self, wanted: ImageAugment, seed: int, mean: Sequence[float], mirrored: bool = True) -> None:
        """``mirrored``: what comes in from outside is the picture's own reflection, else the ``mean``."""
        self.wanted, self.seed, self.mean = wanted, seed, np.round(mean).astype(np.uint8)
        self.outside = None if mirrored else self.mean

    def __call__(self, values: Array, lengths: Numbers | None, numbers: Numbers) -> tuple[Array, Numbers | None]:
        """uint8 (B, H, W, C), the examples' numbers (B,) -> the same shape."""
        w = self.wanted
        drawn = uniforms(self.seed, numbers, _DRAWS)  # (B, _DRAWS)
        if w.rotate or w.scale:
            values = _turn(values, *self._geometry(drawn), self.outside)
        elif w.crop or w.flip:
            values = _shift(values, *self._geometry(drawn)[:2], self.outside)
        if w.colour:
            values = _colour(values, 1 + w.colour * (2 * drawn[:, 5:8] - 1))
        if w.cutout:
            values = _cut(values, drawn[:, 8:10], w.cutout, self.mean)
        return values, lengths

    def places(self, points: Floats, numbers: Numbers, extent: tuple[int, int]) -> tuple[Floats, Floats]:
        """Where points of the pictures come to lie: (B, N, 2), x and y from 0 to 1 of the width and height -> the same, and the
        factor by which things grow (B,). ``extent`` is height and width in pixels. Of pictures that are not turned."""
        shift, flip, _, size = self._geometry(uniforms(self.seed, numbers, _DRAWS))
        high, wide = extent
        moved = 2 * points - 1 - 2 * np.stack([shift[:, 1] / wide, shift[:, 0] / high], 1)[:, None]  # from -1 to 1
        moved *= size[:, None, None]
        moved[..., 0] *= np.where(flip, -1.0, 1.0)[:, None]
        return (moved + 1) / 2, size

    def _geometry(self, drawn: Floats) -> tuple[Numbers, npt.NDArray[np.bool_], Floats, Floats]:
        """Shift (B, 2) in pixels, whether mirrored (B,), turn (B,) in radians, size (B,) as a factor."""
        w = self.wanted
        shift = np.floor(drawn[:, 0:2] * (2 * w.crop + 1)).astype(np.int64) - w.crop
        flip = (drawn[:, 2] < 0.5) & w.flip
        turn = np.radians(w.rotate) * (2 * drawn[:, 3] - 1)
        return shift, flip, turn, np.maximum(0.1, 1 + w.scale * (2 * drawn[:, 4] - 1))


def _mirror(index: Numbers, size: int) -> Numbers:
    """Positions outside 0..size-1 reflected at the outer pixels' edges, as ``grid_sample`` has it."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _shift(values: Array, shift: Numbers, flip: npt.NDArray[np.bool_], outside: Array | None = None) -> Array:
    """Windows of the picture and its border, reflected or ``outside``; by index alone, so nothing is blurred."""
    count, high, wide, channels = values.shape
    down, across = np.arange(high) + shift[:, :1], np.arange(wide)  # (B, H)
    across = np.where(flip[:, None], across[::-1], across) + shift[:, 1:]  # (B, W)
    rows, columns = _mirror(down, high), _mirror(across, wide)
    starts = np.arange(count)[:, None] * high + rows
    index = starts[:, :, None] * wide + columns[:, None, :]  # (B, H, W) into all pixels
    shifted: Array = np.take(np.ascontiguousarray(values).reshape(-1, channels), index, axis=0)
    if outside is not None:
        shifted[((rows != down)[:, :, None] | (columns != across)[:, None, :])] = outside
    return shifted


def _turn(
    values: Array, shift: Numbers, flip: npt.NDArray[np.bool_], turn: Floats, size: Floats, outside: Array | None = None
) -> Array:
    """Turned about the middle, resized, shifted and mirrored in one bilinear pass; outside, the picture is reflected, or
    ``outside``."""
    import torch  # seconds: 'treadle check' reads fields too, and never turns a picture
    import torch.nn.functional as F

    high, wide = values.shape[1:3]
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    sign = np.where(flip, -1.0, 1.0)
    # From -1 to 1 along each side, as grid_sample has it; x and y are brought to one scale for the turn.
    theta = np.stack([
        np.stack([cos * sign, -sin * high / wide, 2.0 * shift[:, 1] / wide], 1),
        np.stack([sin * sign * wide / high, cos, 2.0 * shift[:, 0] / high], 1),
    ], 1)  # (B, 2, 3)
    pictures = torch.from_numpy(np.ascontiguousarray(values)).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.from_numpy(theta.astype(np.float32)), list(pictures.shape), align_corners=False)
    around = 0.0 if outside is None else torch.from_numpy(outside.astype(np.float32))[:, None, None]
    padding = "reflection" if outside is None else "zeros"
    turned = F.grid_sample(pictures - around, grid, mode="bilinear", padding_mode=padding, align_corners=False) + around
    return turned.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _colour(values: Array, factors: Floats) -> Array:
    """Brightness, contrast about the picture's mean, saturation about each pixel's grey: factors (B, 3)."""
    bright, contrast, saturation = factors.astype(np.float32).T[:, :, None, None, None]
    pixels = values.astype(np.float32)
    grey = pixels @ _GREY[:, None] if values.shape[3] == 3 else pixels  # (B, H, W, 1)
    middle = grey.mean((1, 2, 3), keepdims=True)
    if values.shape[3] == 3:
        pixels *= saturation
        pixels += grey * (1 - saturation)
    pixels *= bright * contrast
    pixels += middle * bright * (1 - contrast)
    return np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels).astype(np.uint8)


def _cut(values: Array, centre: Floats, side: int, mean: Array) -> Array:
    """A square about ``centre`` (B, 2), 0 to 1 of height and width, set to the mean; part of it may lie outside."""
    inside = []
    for axis, size in enumerate(values.shape[1:3]):
        first = np.floor(centre[:, axis] * size).astype(np.int64)[:, None] - side // 2
        at = np.arange(size)
        inside.append((at >= first) & (at < first + side))
    hole = inside[0][:, :, None] & inside[1][:, None, :]  # (B, H, W)
    return np.where(hole[..., None], mean, values)


def contact_sheet(
    values: Array, change: Augment, draws: int = 8, scale: int | None = None, boxes: Array | None = None,
    move: Augment | None = None,
) -> bytes:
    """A PNG with a row per picture of ``values`` (N, H, W, C): as it is, then as ``draws`` examples see it. ``scale`` None: about
    ``_WIDTH`` pixels wide. ``boxes`` (N, L, 5), as answers of that kind are encoded, and what ``move`` makes of them, are drawn."""
    count, high, wide, channels = values.shape
    numbers = [np.arange(count, dtype=np.int64) + turn * count for turn in range(draws)]
    columns = [values, *(change(values, None, given)[0] for given in numbers)]
    sheet = np.full((count * (high + 2), (draws + 1) * (wide + 2), channels), 255, np.uint8)
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures):
            sheet[row * (high + 2) :, column * (wide + 2) :][:high, :wide] = picture
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    scale = scale or max(1, _WIDTH // image.width)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    if boxes is not None and move is not None:
        image = image.convert("RGB")
        for column, found in enumerate([boxes, *(move(boxes, None, given)[0] for given in numbers)]):
            for row, things in enumerate(found):
                _outline(image, things[things[:, 0] != 0, 1:], (column * (wide + 2), row * (high + 2)), (wide, high), scale)
    if image.width > 2 * _WIDTH:
        image.thumbnail((_WIDTH, image.height))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _outline(image: Image.Image, boxes: Array, corner: tuple[int, int], size: tuple[int, int], scale: int) -> None:
    """Draw boxes (L, 4) of cx, cy, width, height into the picture of ``size`` at ``corner``."""
    pen = ImageDraw.Draw(image)
    for box in boxes.astype(np.float64):
        edges = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * [*size, *size] + [*corner, *corner]
        left, top, right, bottom = (round(edge * scale) for edge in edges.tolist())
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_ORANGE, width=max(1, image.width // _WIDTH))
