"""Pictures of bright squares and discs on a dark ground, with their boxes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("disc", "square")


def scene(
    rng: np.random.Generator, size: tuple[int, int] = (48, 48), most: int = 3, least: int = 0
) -> tuple[Image.Image, list[Any]]:
    """A picture of ``size`` (width, height) with ``least`` to ``most`` things that do not touch."""
    noise = rng.normal(rng.integers(10, 80, 3), 4, (size[1], size[0], 3))
    picture = Image.fromarray(np.clip(noise, 0, 90).astype(np.uint8))
    draw, things = ImageDraw.Draw(picture), []
    for _ in range(int(rng.integers(least, most + 1))):
        side, label = int(rng.integers(9, 16)), LABELS[int(rng.integers(2))]
        for _ in range(50):
            x, y = (int(rng.integers(0, whole - side)) for whole in size)
            if all(abs(x - ox) > 16 or abs(y - oy) > 16 for (ox, oy, *_) in (thing["box"] for thing in things)):
                colour = tuple(int(n) for n in rng.integers(150, 256, 3))
                (draw.ellipse if label == "disc" else draw.rectangle)([x, y, x + side - 1, y + side - 1], fill=colour)
                things.append({"box": [x, y, side, side], "label": label})
                break
    return picture, things


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def write_scenes(folder: Path, part: str, count: int, seed: int, **how: Any) -> None:
    """``part``/0000.png and so on, and ``part``.jsonl with what they show."""
    rng, lines = np.random.default_rng(seed), []
    (folder / part).mkdir(parents=True)
    for number in range(count):
        picture, things = scene(rng, **how)
        picture.save(folder / part / f"{number:04d}.png")
        lines.append(json.dumps({"file": f"{number:04d}.png", "things": things}))
    (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
