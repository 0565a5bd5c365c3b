"""Make scenes/: pictures of 64 x 64 pixels with handwritten digits strewn over them, and the boxes of their ink.

    python make.py [TRAIN [TEST]]     # how many pictures; 8,000 and 1,000 where nothing is said

The digits are those of MNIST, which is looked for in the folder that the environment variable TREADLE_DATA names: those of its
training part in the pictures to train on, those of its test part in the others. The same numbers give the same pictures.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from treadle.data.sources.media import read_idx

SIDE = 64
MOST = 4
FILES = {"train": "train", "test": "t10k"}


def scene(rng: np.random.Generator, digits: np.ndarray, names: np.ndarray) -> tuple[Image.Image, list[dict[str, object]]]:
    """Up to ``MOST`` digits of 17 to 34 pixels, whose boxes do not touch, on a ground of faint noise."""
    sheet = rng.uniform(0, 40) + rng.normal(0, 8, (SIDE, SIDE))
    things: list[dict[str, object]] = []
    taken = np.zeros((SIDE, SIDE), bool)
    for number in rng.integers(0, len(digits), rng.integers(0, MOST + 1)):
        side = int(rng.integers(17, 35))
        ink = np.asarray(Image.fromarray(digits[number]).resize((side, side), Image.Resampling.BICUBIC), np.float64)
        down, across = np.nonzero(ink > 64)
        if not len(down):
            continue
        top, left, high, wide = down.min(), across.min(), int(np.ptp(down)) + 1, int(np.ptp(across)) + 1
        for _ in range(20):
            y, x = (int(n) for n in rng.integers(0, SIDE - side + 1, 2))
            place = np.s_[y + top : y + top + high, x + left : x + left + wide]
            if not taken[place].any():
                taken[place] = True
                sheet[y : y + side, x : x + side] += ink * rng.uniform(0.6, 1.0)
                things.append({"box": [int(x + left), int(y + top), wide, high], "label": int(names[number])})
                break
    return Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), things


def make(part: str, count: int, seed: int) -> None:
    """scenes/PART.zip with the pictures, and scenes/PART.jsonl with what each shows."""
    mnist = Path(os.environ.get("TREADLE_DATA", "../shared/data")) / "mnist"
    digits, names = (read_idx(mnist / f"{FILES[part]}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(f"scenes/{part}.zip", "w") as archive, Path(f"scenes/{part}.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(count):
            picture, things = scene(rng, digits, names)
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            archive.writestr(f"{number:05d}.png", stream.getvalue())
            lines.write(json.dumps({"file": f"{number:05d}.png", "digits": things}) + "\n")


if __name__ == "__main__":
    Path("scenes").mkdir(exist_ok=True)
    make("train", int(sys.argv[1]) if len(sys.argv) > 1 else 8000, seed=0)
    make("test", int(sys.argv[2]) if len(sys.argv) > 2 else 1000, seed=1)
