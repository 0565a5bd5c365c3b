"""Every shipped recipe checks, plans and builds, at a tiny size."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from treadle import show
from treadle.check import check_data
from treadle.core.project import load_project
from treadle.data.schema import Schema
from treadle.pipeline import Workshop, build, plan
from treadle.scaffold import RECIPES, init, recipes, steps
from treadle.spec.load import read_file
from treadle.spec.project import ProjectSpec

SMALL = {
    "pycode": (
        "data.sources.0.files='{stdlib}/[a-d]*.py'", "model.trunk.transformer.depth=1", "model.inputs.text.context=64",
        "model.inputs.text.tokenizer.bpe=400", "train.budget=20 steps", "train.validate_tokens=1000",
        "evaluate.gate.bits_per_byte='<= 8'", "evaluate.max_tokens=3000", "data.split.test=20%", "data.split.validation=20%",
    )
}


WHOLE = sorted(path.parent.name for path in RECIPES.glob("*/sample") if not (path.parent / "sample.yaml").exists())
"""Recipes that hold all of their data."""
SAMPLED = sorted(path.parent.name for path in RECIPES.glob("*/sample.yaml"))
DOWNLOADED = ["objects-resnet-full"]
"""Recipes whose data comes from the network: here from a server on loopback, and little of it."""


def test_names_stand_apart_from_what_is_said_of_them():
    lines = show.recipes({name: vars(about) for name, about in recipes().items()})
    assert all(line.startswith(f"{name}  ") for name, line in zip(recipes(), lines[::3], strict=True))


def test_every_recipe_is_listed_and_has_a_test():
    folders = {path.name for path in RECIPES.iterdir() if path.is_dir()}
    assert folders == set(recipes()) == set(SMALL) | set(SAMPLED) | set(WHOLE) | set(DOWNLOADED)
    assert all(len(text) > 3 for about in recipes().values() for text in vars(about).values())


@pytest.mark.parametrize("name", SAMPLED + WHOLE)
def test_a_recipe_runs_on_its_sample(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TREADLE_DATA", str(tmp_path / "nothing"))
    assert isinstance(read_file(RECIPES / name / "treadle.yaml"), ProjectSpec)
    folder, missing = init(name, tmp_path / name)
    assert bool(missing) is (name in SAMPLED)
    for step in (*steps(name), "."):
        workshop = Workshop.open(load_project(folder / step))
        outcome = build(workshop, plan(workshop))
        assert outcome.version == 1
        assert json.dumps(outcome.as_dict())


def test_digits_are_strewn_over_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digits, names = np.zeros((20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 10
    digits[:, 6:22, 9:19] = 255
    (tmp_path / "mnist").mkdir()
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", digits), ("labels-idx1", names)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
            (tmp_path / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    monkeypatch.setenv("TREADLE_DATA", str(tmp_path))
    folder, missing = init("boxes-digits", tmp_path / "project")
    assert not missing
    subprocess.run([sys.executable, "make.py", "30", "12"], cwd=folder, check=True)
    checked = check_data(load_project(folder))
    assert [source["count"] for source in checked["sources"]] == [20, 12]
    schema, lines = Schema(load_project(folder).spec.model), (folder / "scenes" / "train.jsonl").read_text().splitlines()
    assert len(lines) == 30
    with zipfile.ZipFile(folder / "scenes" / "train.zip") as archive:
        for line in map(json.loads, lines):
            plain = schema.parse({"image": archive.read(line["file"]), "digits": line["digits"]})
            pixels = schema.inputs["image"].encode([plain["image"]]).values[0, ..., 0]
            for thing in line["digits"]:
                x, y, wide, high = thing["box"]
                assert pixels[y : y + high, x : x + wide].mean() > 110  # full of ink, and none outside
                pixels[y : y + high, x : x + wide] = 0
            assert pixels.mean() < 60
            assert (pixels > 200).sum() < 20
    assert not (init("boxes-digits", tmp_path / "more")[0] / "sample").exists()


def test_the_whole_of_cifar_is_read_from_its_own_file(tmp_path: Path):
    """All but its size: 10 classes of a few pictures, each class a colour of its own."""
    rng, stream = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, count in (("data_batch_1", 80), ("data_batch_2", 80), ("test_batch", 60), ("readme", 0)):
            labels = np.arange(count) % 10
            colours = np.stack([labels % 2 * 200, labels // 2 % 3 * 100, labels // 6 * 200], 1).repeat(1024, 1)
            pixels = (colours + rng.integers(0, 30, (count, 3072))).astype(np.uint8)
            data = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1).tobytes() or b"about the pictures"
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.{'bin' if count else 'html'}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    content = stream.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    folder, missing = init("objects-resnet-full", tmp_path / "cifar")
    assert not missing
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            text = (folder / "treadle.yaml").read_text()
            (folder / "treadle.yaml").write_text(
                re.sub(r"url: .*", f"url: http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz", text).replace(
                    re.findall(r"sha256: (\w+)", text)[0], hashlib.sha256(content).hexdigest()
                )
            )
            small = (
                "model.trunk.conv.channels=[4,8]", "train.budget=8 epochs", "train.batch=16", "train.threads=1",
                "train.learning_rate=0.02", "data.split.validation=10%", "evaluate.gate.accuracy='>= 30%'",
                "evaluate.resamples=100",
            )
            workshop = Workshop.open(load_project(folder, small))
            outcome = build(workshop, plan(workshop))
        finally:
            server.shutdown()
            thread.join()
    assert outcome.version == 1
    assert outcome.account == {"in": 220, "kept": 220, "set_aside": {}}
    schema = Schema.load(workshop.store.open(outcome.artifacts["dataset"]).path)
    assert schema.targets["object"].state()["classes"][:3] == ["airplane", "automobile", "bird"]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_recipe_runs(name: str, tmp_path: Path):
    folder, _ = init(name, tmp_path / name)
    assert check_data(load_project(folder))["sources"][0]["count"] > 0
    project = load_project(folder, SMALL[name])
    workshop = Workshop.open(project)
    outcome = build(workshop, plan(workshop))
    assert outcome.version == 1
    metrics = outcome.scorecard["metrics"]
    assert metrics["bits_per_byte"]["value"] < 6
    assert json.dumps(outcome.as_dict())
