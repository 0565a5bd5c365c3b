"""A project of records small enough to be built in seconds: will it rain, from a table that this module makes up."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from treadle.core.project import Project, load_project

SPEC = """\
name: rain
data:
  sources: [{table: weather.csv, licence: CC0-1.0}]
  split: {test: 25%, validation: 15%}
model:
  inputs: {pressure: number, sky: category, note: {tokenizer: {words: 60}, context: 8}}
  trunk: {mlp: {width: 16, depth: 1}}
  heads: {rain: binary, millimetres: number}
train: {budget: 12 epochs, batch: 16, learning_rate: 0.01, threads: 1, precision: float32}
evaluate: {gate: {rain.accuracy: ">= 60%"}, resamples: 200}
serve: {port: 0}
improve: {min_feedback: 8, max_loss: 50%}
"""
SKIES = ("blue", "grey", "black")


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """Rain falls under a black sky, and under a grey one where the pressure is low."""
    draw = random.Random(seed)
    found: list[dict[str, object]] = []
    for _ in range(count):
        pressure, sky = round(draw.gauss(1013, 12), 1), draw.choice(SKIES)
        rain = sky == "black" or (sky == "grey" and pressure < 1010)
        rain = rain != (draw.random() < 0.03)
        note = " ".join(draw.sample(["calm", "wind", "east", "warm", "cold"], 2)) + (" clouds gather" if rain else " all clear")
        millimetres = round(draw.uniform(1, 9), 2) if rain else 0.0
        found.append({
            "pressure": "" if draw.random() < 0.05 else pressure, "sky": sky, "note": note, "rain": "yes" if rain else "no",
            "millimetres": millimetres,
        })
    return found


def write_table(path: Path, table: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def write_records_project(folder: Path, *overrides: str, text: str = SPEC, count: int = 400) -> Project:
    """The project in ``folder`` with its table of ``count`` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "treadle.yaml").write_text(text, encoding="utf-8")
    write_table(folder / "weather.csv", rows(count, 1))
    return load_project(folder, overrides)
