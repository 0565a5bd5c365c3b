"""A project of records with every kind of input that the page has a field for, with a network as it was drawn."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from treadle.core.project import Project, load_project
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.model.network import make_network, save_network
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

SPEC = """\
name: sky
data: {sources: [{table: weather.csv, licence: CC0-1.0}]}
model:
  inputs:
    pressure: number
    sky: category
    place: category
    dry: boolean
    day: date
    note: {tokenizer: {words: 60}, context: 8}
    photo: {image: {size: 16}}
    sound: {audio: {seconds: 1, rate: 4000, mels: 8}}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
  heads: {rain: binary, millimetres: number, cloud: category}
"""
PLACES = [f"place {number}" for number in range(20)]
CLOUDS = ("cirrus", "cumulus", "nimbus", "a cloud with a name too long for any column to hold it whole")


def png(shade: int, side: int = 64) -> bytes:
    """A picture from light to ``shade``."""
    ramp = np.linspace(255, shade, side).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), shade, np.uint8)], -1)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def wave(pitch: float, seconds: float = 0.5, rate: int = 8000) -> bytes:
    """A tone as a WAV file."""
    stream = io.BytesIO()
    soundfile.write(stream, 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate), rate, format="WAV")
    return stream.getvalue()


def row(draw: random.Random) -> dict[str, Any]:
    return {
        "pressure": f"{draw.gauss(1013, 12):.1f}", "sky": draw.choice(["blue", "grey", "black"]), "place": draw.choice(PLACES),
        "dry": draw.choice(["yes", "no"]), "day": f"2026-0{draw.randint(1, 9)}-1{draw.randint(0, 9)}",
        "note": draw.choice(["clouds gather", "all clear"]), "photo": base64.b64encode(png(draw.randint(0, 200))).decode(),
        "sound": base64.b64encode(wave(draw.uniform(200, 900))).decode(), "rain": draw.choice(["yes", "no"]),
        "millimetres": f"{draw.uniform(0, 9):.2f}", "cloud": draw.choice(CLOUDS),
    }


def project_with_every_input(folder: Path) -> tuple[Project, Store, Ledger, str]:
    """The project with version 1 live; its package's id is last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    schema, draw = Schema(project.spec.model), random.Random(0)
    plain = [schema.parse(row(draw)) for _ in range(60)]
    schema.fit([Record(str(number), fields, "made up", "CC0-1.0", str(number)) for number, fields in enumerate(plain)])
    store, ledger = Store(project.store), Ledger(project.store)
    id = store.identify("package", [], {}, 1)
    with store.create(id, parents=[], config={}, version=1, seed=0) as package:
        save_network(make_network(project.spec.model, schema.layouts, 0), package.path)
        schema.save(package.path)
    ledger.promote(id, "test")
    return project, store, ledger, id
