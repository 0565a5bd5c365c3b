"""What a package says of the data that it was made with: recounted by hand from the files, small, and without what few records
have."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tiny import write_project
from tiny_records import SPEC, write_records_project, write_table
from tiny_records import rows as weather
from treadle.core.project import load_project
from treadle.data.fields.category import RARE
from treadle.data.reference import FILE, load_references
from treadle.data.schema import Schema
from treadle.data.shards import Shard
from treadle.pipeline import Workshop, build, live_package


@pytest.fixture(scope="module")
def rain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workshop]:
    folder = tmp_path_factory.mktemp("rain")
    write_records_project(folder, text=SPEC)
    table = weather(600, 1)
    table[0]["sky"], table[1]["sky"], table[5]["pressure"] = "Erika Mustermann", "plaid", 4711.5  # in one record each
    write_table(folder / "weather.csv", table)
    workshop = Workshop.open(load_project(folder))
    build(workshop, None)
    return folder, workshop


def test_inputs_are_counted_in_the_training_part(rain: tuple[Path, Workshop]) -> None:
    folder, workshop = rain
    package = live_package(workshop)
    references = load_references(package.path)
    assert references is not None
    assert set(references) == {
        ("input", "pressure"), ("input", "sky"), ("input", "note"), ("input", "note length"), ("output", "rain"),
        ("output", "millimetres"),
    }
    schema = Schema.load(package.path)
    dataset = workshop.store.folder(workshop.store.open(package.parents[0]).parents[0])
    encoded = np.load(dataset / "train.inputs.pressure.npy")
    pressure = references["input", "pressure"]
    assert pressure.counts[0] == int(np.isnan(encoded).sum()) > 0
    known = encoded[~np.isnan(encoded)]
    assert sum(pressure.counts) == pressure.size == len(encoded)
    inner = [int(((known > low) & (known <= high)).sum()) for low, high in zip(pressure.bounds, pressure.bounds[1:], strict=False)]
    assert list(pressure.counts[2:-1]) == inner
    assert min(inner) >= 10
    ids = np.load(dataset / "train.inputs.sky.npy")
    sky = references["input", "sky"]
    assert {schema.inputs["sky"].vocabulary.names[int(id) - 3] for id in sky.bounds} == {"blue", "grey", "black"}
    assert list(sky.counts[3:]) == [int((ids == id).sum()) for id in sky.bounds]
    with (folder / "weather.csv").open() as stream:
        assert sum(sky.counts) < len(list(csv.DictReader(stream)))  # the training part alone
    assert sky.counts[2] == int((ids >= RARE).sum() - sum(sky.counts[3:]))


def test_outputs_are_what_the_package_answers_to_held_out_records(rain: tuple[Path, Workshop]) -> None:
    _, workshop = rain
    package = live_package(workshop)
    references = load_references(package.path)
    assert references is not None
    scorecard = workshop.store.open(package.parents[1])
    predicted = scorecard.counts.get("records")
    rain_ = references["output", "rain"]
    assert sum(rain_.counts[3:]) == rain_.size  # always one of the two names
    assert predicted in (None, rain_.size)
    assert references["output", "millimetres"].size == rain_.size


def test_it_is_small_and_holds_nothing_that_few_records_have(rain: tuple[Path, Workshop]) -> None:
    _, workshop = rain
    file = live_package(workshop).path / FILE
    text = file.read_text()
    assert file.stat().st_size < 20_000
    assert "Mustermann" not in text
    assert "plaid" not in text
    schema = Schema.load(file.parent)
    (odd,) = schema.inputs["pressure"].encode([4711.5]).values.tolist()
    bounds = json.loads(text)["references"][0]["bounds"]
    assert max(bounds) < odd / 2  # the one record far out is in no bound


def test_it_is_made_alike_every_time(rain: tuple[Path, Workshop], tmp_path: Path) -> None:
    folder, workshop = rain
    for name in ("treadle.yaml", "weather.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    again = Workshop.open(load_project(tmp_path))
    build(again, None)
    assert (live_package(again).path / FILE).read_bytes() == (live_package(workshop).path / FILE).read_bytes()


def test_of_running_text_the_tokens_of_the_training_part(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    workshop = Workshop.open(project)
    build(workshop, None)
    package = live_package(workshop)
    references = load_references(package.path)
    assert references is not None
    assert set(references) == {("input", "text")}
    text = references["input", "text"]
    shard = Shard(workshop.store.folder(workshop.store.open(package.parents[0]).parents[0]), "train")
    pieces = len(shard.tokens) // 512
    assert pieces >= 40
    assert 0.97 * pieces * 512 < sum(text.counts) <= pieces * 512  # all but the end marks and a rest
    assert text.size == pytest.approx(pieces, rel=0.01)
    whole = np.asarray(shard.tokens)[np.asarray(shard.tokens) != 0].astype(float)
    assert np.array(text.counts) / sum(text.counts) == pytest.approx(text.count(whole) / len(whole), abs=0.01)
    assert text.statistic == "psi"
