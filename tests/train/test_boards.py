"""What boards are shown of a run beside its scalars, read back with TensorBoard's own reader; and that it changes no weight."""

from __future__ import annotations

import base64
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tiny import SPEC, write_project
from treadle.core.errors import UserError
from treadle.core.project import Project, load_project
from treadle.data.shards import END_ID
from treadle.data.tokenizer import decode, load_tokenizer
from treadle.model.generate import generate
from treadle.model.hub import load_model
from treadle.model.network import load_network
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.report.page import write_report
from treadle.report.watch import Watcher
from treadle.spec.units import format_figure
from treadle.store.artifacts import Artifact, Store
from treadle.store.ledger import Ledger
from treadle.train.hooks import Step
from treadle.train.rounds import first_round
from treadle.train.samples import TOKENS, contact_sheet
from treadle.train.stage import train_model

DROPS = SPEC.replace("hidden: 64}", "hidden: 64, dropout: 0.2}").replace("tokens: 8}", "tokens: 40}")
PICTURES = """\
name: shades
data: {sources: [{media: pictures, into: photo, folder_is: shade, licence: CC0-1.0}], split: {test: 20%, validation: 30%}}
model:
  inputs: {photo: {image: {size: 8, grey: true, augment: {flip: true}}}}
  trunk: {mlp: {width: 8, depth: 1}}
  heads: {shade: category}
train: {budget: 4 epochs, batch: 10, threads: 1, precision: float32}
"""


def trained(project: Project, hooks: Any = ()) -> Artifact:
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    return train_model(project, store, dataset, first_round(project, dataset), hooks)


def board(model: Artifact) -> EventAccumulator:
    reader = EventAccumulator(str(model.path / "tensorboard"), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    reader.Reload()
    return reader


class Looking:
    """Watches the run as another process would."""

    def __init__(self, root: Path) -> None:
        self.root, self.seen = root, list[Any]()

    def on_step(self, figures: Step) -> None:
        pass

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self.seen.append(Watcher(self.root).look())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Looking]:
    """A run that everyone watches."""
    project = write_project(tmp_path_factory.mktemp("watched"), "train.profile=true", text=DROPS)
    looking = Looking(project.store)
    return trained(project, [looking]), looking


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(write_project(tmp_path_factory.mktemp("unwatched"), "evaluate.sample.prompts=[]", text=DROPS))


def test_watching_changes_no_weight_and_no_name(watched: tuple[Artifact, Looking], unwatched: Artifact):
    model, _ = watched
    assert model.id == unwatched.id
    assert (model.path / "model.safetensors").read_bytes() == (unwatched.path / "model.safetensors").read_bytes()


def test_text_goes_on_from_the_prompt_at_each_validation(watched: tuple[Artifact, Looking], unwatched: Artifact):
    model, _ = watched
    found = board(model).Tensors("sample/text_summary")
    assert [event.step for event in found] == list(range(3, 31, 3))
    texts = [event.tensor_proto.string_val[0].decode() for event in found]
    assert all(text.startswith("    def ") for text in texts)
    assert len(set(texts)) > 1
    tokenizer = load_tokenizer(model.path / "tokenizer.json")
    prompt = [END_ID, *tokenizer.encode("def ", add_special_tokens=False).ids]
    wanted = min(TOKENS, 32 - len(prompt) + 1)
    last = "def " + decode(tokenizer, generate(load_model(model.path), prompt, wanted, seed=0, end=END_ID))
    assert texts[-1] == "\n".join(f"    {line}" for line in last.splitlines())
    assert "sample/text_summary" not in board(unwatched).Tags()["tensors"]


def test_scalars_say_where_the_time_went(watched: tuple[Artifact, Looking]):
    model, _ = watched
    reader = board(model)
    for part in ("data", "forward", "backward", "optimizer"):
        each = [event.value for event in reader.Scalars(f"seconds/{part}")]
        assert len(each) == 30
        assert sum(each) == pytest.approx(model.counts["spent"][part], rel=1e-3)
    assert {"validation", "checkpoints"} < set(model.counts["spent"])
    steps = sum(model.counts["spent"][part] for part in ("data", "forward", "backward", "optimizer", "validation"))
    assert steps <= model.counts["seconds"] * 1.01


def test_another_process_sees_the_run_go_on(watched: tuple[Artifact, Looking]):
    model, looking = watched
    assert [(seen.state, seen.model) for seen in looking.seen] == [("running", model.id)] * 10
    assert [seen.progress for seen in looking.seen] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert looking.seen[4].steps[-1]["step"] == 15
    assert not list((model.path.parents[2] / "work").iterdir())
    assert Watcher(model.path.parents[2]).look().state == "done"


def test_a_profile_names_the_costliest_operations(watched: tuple[Artifact, Looking]):
    model, _ = watched
    found = model.counts["profile"]
    rows = found["operations"]
    assert len(rows) == 10
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    assert any(row["name"] in ("aten::mm", "aten::addmm") for row in rows)
    assert sum(row["share"] for row in rows) <= 1.0001
    assert found["in_operations"] <= found["seconds"]
    events = json.loads(gzip.decompress((model.path / "profile.json.gz").read_bytes()))["traceEvents"]
    products = [event for event in events if event.get("name") == "aten::mm"]
    assert len(products) == 3 * next((row["calls"] for row in rows if row["name"] == "aten::mm"), len(products) / 3)


def test_too_short_a_run_is_not_profiled_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = trained(write_project(tmp_path, "train.profile=true", "train.budget=6 steps"))
    assert model.counts["profile"] is None
    assert not (model.path / "profile.json.gz").exists()
    assert "nothing was profiled" in capsys.readouterr().err
    quiet = trained(load_project(tmp_path, ("train.profile=true", "train.budget=9 steps", "train.validate_every=0")))
    assert quiet.counts["profile"]["steps"] == 3
    trained(load_project(tmp_path, ("train.profile=true", "train.budget=6 steps")))
    assert "no step was taken that could be profiled" in capsys.readouterr().err


def write_pictures(folder: Path) -> Project:
    """Dark and light pictures, four of which lie in the wrong folder."""
    rng = np.random.default_rng(0)
    for shade, low in (("dark", 0), ("light", 170)):
        (folder / "pictures" / shade).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(low, low + 80, (8, 8)).astype(np.uint8)
            pixels = 255 - pixels if number < 4 else pixels
            Image.fromarray(pixels).save(folder / "pictures" / shade / f"{number}.png")
    (folder / "treadle.yaml").write_text(PICTURES)
    return load_project(folder)


def test_pictures_of_the_first_batch_and_the_most_wrong(tmp_path: Path):
    project = write_pictures(tmp_path)
    model = trained(project)
    reader = board(model)
    (first,) = reader.Images("first_batch/photo")
    (wrong,) = reader.Images("most_wrong/photo")
    dataset = Store(project.store).open(model.parents[0])
    batch = first_round(project, dataset).batches.batch_at(0, 10)
    sheet = np.asarray(contact_sheet(batch.inputs["photo"].numpy()))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first.encoded_image_string))), sheet)
    network, held_out = load_network(model.path), first_round(project, dataset).held_out
    whole = held_out.rows(np.arange(held_out.records, dtype=np.int64))
    with torch.no_grad():
        losses = network.losses(network(whole), whole)["shade"]
        said = network(whole)["shade"].argmax(-1)
    order = losses.argsort(descending=True, stable=True)[:16]
    names = ("dark", "light")
    right = whole.targets["shade"]
    captions = [
        [f"says {names[said[n]]}", f"is {names[right[n]]}", f"loss {format_figure(float(losses[n]), 3)}"] for n in order
    ]
    assert captions[0][0][5:] != captions[0][1][3:]  # one of those that lie in the wrong folder
    sheet = np.asarray(contact_sheet(whole.inputs["photo"][order].numpy(), captions))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(wrong.encoded_image_string))), sheet)
    assert wrong.step == model.counts["steps"]
    assert np.array_equal(np.asarray(Image.open(model.path / "most_wrong.photo.png")), sheet)
    page = write_report(project, Store(project.store), Ledger(project.store)).read_text()
    assert base64.b64encode((model.path / "most_wrong.photo.png").read_bytes()).decode() in page


def test_a_tracker_that_is_not_installed_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("treadle.data.given.find_spec", lambda name: None)
    project = write_project(tmp_path, "train.log_to=[mlflow, wandb]")
    with pytest.raises(UserError, match="mlflow and wandb are not installed") as raised:
        trained(project)
    assert raised.value.cure == "pip install 'treadle[mlflow,wandb]', or leave it out"
