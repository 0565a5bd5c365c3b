"""Boxes go where their things go: through every way of bringing a picture to its size, turned by EXIF, and changed in training."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.scenes import png, scene

from treadle.core.errors import UserError
from treadle.data.fields.base import BadValue
from treadle.data.fields.image import ImageField
from treadle.data.record import Record
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.data.targets.boxes import UNSEEN, BoxesTarget
from treadle.spec.model import Model


def schema(head: dict[str, Any] | None = None, **image: Any) -> Schema:
    return Schema(Model.model_validate({
        "inputs": {"photo": {"image": {"size": 32} | image}}, "trunk": {"conv": {"channels": [4]}},
        "heads": {"things": {"boxes": head or {}}},
    }))


def target(made: Schema) -> BoxesTarget:
    found = made.targets["things"]
    assert isinstance(found, BoxesTarget)
    return found


def row(picture: Image.Image, things: Any) -> dict[str, Any]:
    return {"photo": png(picture), "things": things}


def lit(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A white box on black."""
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return picture


def bright(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """cx, cy, width, height of the white pixels as shares of (H, W, C)."""
    down, across = np.nonzero(pixels.min(2) > 140)
    high, wide = pixels.shape[:2]
    left, right, top, bottom = across.min() / wide, (across.max() + 1) / wide, down.min() / high, (down.max() + 1) / high
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def test_an_answer_is_a_list_of_things_or_that_as_text():
    things, want = [{"box": [1, 2, 3.5, 4], "label": 7}], [{"box": [1.0, 2.0, 3.5, 4.0], "label": "7"}]
    made = target(schema())
    assert made.parse(things) == made.parse(json.dumps(things)) == want
    assert made.parse([]) == made.parse("[]") == []
    assert made.parse(None) is made.parse(" ") is made.parse(float("nan")) is None
    assert made.parse([things[0] | {"probability": 0.9}]) == want
    own = target(schema({"keys": {"box": "bbox", "label": "category_id"}}))
    assert own.parse([{"bbox": [1, 2, 3.5, 4], "category_id": 7}]) == own.parse(things) == want
    for raw, reason in (
        ("nothing", "not a list of boxes"), ({"box": [1, 2, 3, 4]}, "not a list of boxes"), ([[1, 2, 3, 4]], "not a list of boxes"),
        ([{"box": [1, 2, 3, 4]}], "not a list of boxes"), ([{"label": "a"}], "not a list of boxes"), (7, "not a list of boxes"),
        ([{"box": [1, 2, 3, 4], "label": " "}], "not a list of boxes"), (b"[]", "not a list of boxes"),
        ([{"box": [1, 2, 3], "label": "a"}], "not a box"), ([{"box": "1234", "label": "a"}], "not a box"),
        ([{"box": [1, True, 3, 4], "label": "a"}], "not a box"), ([{"box": [1, float("nan"), 3, 4], "label": "a"}], "not a box"),
        ([{"box": [1, 2, 0, 4], "label": "a"}], "box without area"), ([{"box": [1, 2, 3, -4], "label": "a"}], "box without area"),
    ):
        with pytest.raises(BadValue) as caught:
            made.parse(raw)
        assert caught.value.reason == reason, raw


@pytest.mark.parametrize("box", [[40, 3, 5, 5], [3, 20, 5, 5], [-5, 3, 5, 5], [3, -9, 5, 5]])
def test_a_box_outside_its_picture_is_set_aside(box: list[int]):
    made = schema()
    with pytest.raises(BadValue) as caught:
        made.parse(row(Image.new("RGB", (40, 20)), [{"box": box, "label": "a"}]))
    assert caught.value.reason == "box outside the picture"
    assert "40 x 20" in caught.value.detail
    assert made.parse({"photo": png(Image.new("RGB", (40, 20)))}, answers=False)
    assert made.parse(row(Image.new("RGB", (40, 20)), [{"box": [-4, 3, 5, 5], "label": "a"}]))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_a_picture_on_its_side_has_its_boxes_as_it_is_seen(kind: str):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    seen = lit((30, 60), (4, 40, 10, 8))
    seen.transpose(Image.Transpose.ROTATE_90).save(stream, kind, exif=exif)
    made = schema(size=[60, 30])
    made.parse({"photo": stream.getvalue(), "things": [{"box": [4, 40, 10, 8], "label": "a"}]})
    plain = made.parse({"photo": stream.getvalue(), "things": [{"box": [4, 40, 10, 8], "label": "a"}]})
    found = target(made).value(plain)
    assert found is not None
    np.testing.assert_allclose(found[1][0], bright(made.encode_inputs([plain])["photo"].values[0]), atol=1e-6)
    with pytest.raises(BadValue):
        made.parse({"photo": stream.getvalue(), "things": [{"box": [40, 4, 10, 8], "label": "a"}]})


@pytest.mark.parametrize("fit", ["cover", "pad", "stretch"])
@pytest.mark.parametrize("size", [(90, 50), (50, 91), (64, 64), (31, 20)])
def test_a_box_goes_where_its_thing_goes(fit: str, size: tuple[int, int]):
    box = (size[0] // 2 - 7, size[1] // 2 - 6, 14, 10)
    made = schema(size=[48, 40], fit=fit)
    plain = made.parse(row(lit(size, box), [{"box": list(box), "label": "a"}]))
    pixels, found = made.encode_inputs([plain])["photo"].values[0], target(made).value(plain)
    assert found is not None
    np.testing.assert_allclose(found[1][0], bright(pixels), atol=1.5 / 40)
    output = np.array([[[1, 0.9, *found[1][0]], [1, 0.1, 0.5, 0.5, 0.1, 0.1]]])
    made.targets["things"].restore({"labels": ["a"]})
    (answer,) = (target(made).about(given, plain) for given in target(made).answers(output))
    assert answer == {"answer": [{"box": pytest.approx(box, abs=0.01), "label": "a", "probability": 0.9}]}


def test_padding_is_grey_and_shows_all_of_a_picture():
    picture = Image.new("RGB", (40, 10), "red")
    made = {fit: schema(size=20, fit=fit).inputs["photo"] for fit in ("pad", "stretch")}
    pixels = {fit: field.encode([{"bytes": png(picture)}]).values[0] for fit, field in made.items()}
    assert (pixels["pad"][:7] == 128).all()
    assert (pixels["pad"][13:] == 128).all()
    assert (pixels["pad"][8:12] == (255, 0, 0)).all()
    assert (pixels["stretch"] == (255, 0, 0)).all()


def test_what_is_cut_off_is_not_asked_about():
    made = schema(fit="cover")
    boxes = {"gone": [2, 10, 12, 12], "hardly": [22, 10, 16, 12], "whole": [45, 4, 6, 6]}
    things = [{"box": box, "label": label} for label, box in boxes.items()]
    plain = made.parse(row(Image.new("RGB", (96, 32)), things))
    found = target(made).value(plain)
    assert found is not None
    assert found[0] == ["whole"]
    near = made.parse(row(Image.new("RGB", (96, 32)), [{"box": [28, 8, 16, 16], "label": "part"}]))
    labels, boxes = target(made).value(near)  # type: ignore[misc]
    assert labels == ["part"]
    np.testing.assert_allclose(boxes, [[6 / 32, 0.5, 12 / 32, 0.5]])


def test_classes_begin_at_one_and_unseen_labels_are_told_apart():
    made = schema()
    blank = Image.new("RGB", (32, 32))
    named = [[{"box": [0, 0, 16, 16], "label": label}] for label in ("dog", "cat", "dog")]
    plain = [made.parse(row(blank, things)) for things in (*named, [])]
    made.fit([Record(str(n), fields, "", "", str(n)) for n, fields in enumerate(plain)])
    extra = made.parse(row(blank, [{"box": [0, 0, 16, 16], "label": "cow"}]))
    column = made.encode_targets([*plain, extra, {**extra, "things": None}])["things"]
    assert column.lengths().tolist() == [1, 1, 1, 0, 1, 1]  # type: ignore[union-attr]
    assert column.values[:4].tolist() == [[n, 0.25, 0.25, 0.5, 0.5] for n in (2, 1, 2, UNSEEN)]
    assert np.isnan(column.values[4]).all()
    again = schema()
    again.targets["things"].restore(made.targets["things"].state())
    assert target(again).layout == target(made).layout
    with pytest.raises(UserError, match="anything in a box"):
        target(made).fit([([], np.zeros((0, 4)))])
    with pytest.raises(UserError, match="a picture shows 3 things, and at most 2"):
        target(schema({"queries": 2})).fit([(["a"] * 3, np.zeros((3, 4)))])


@pytest.mark.parametrize("augment", [{"crop": 5}, {"flip": True}, {"scale": 0.4}, {"crop": 6, "flip": True, "scale": 0.3}])
def test_boxes_follow_what_training_does_to_pictures(augment: dict[str, Any]):
    made = schema(size=[40, 48], augment=augment)
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(16):
        box = [int(n) for n in (*rng.integers(12, 24, 2), *rng.integers(6, 12, 2))]
        plain.append(made.parse(row(lit((48, 40), tuple(box)), [{"box": box, "label": "a"}])))  # type: ignore[arg-type]
    made.fit([Record(str(n), fields, "", "", str(n)) for n, fields in enumerate(plain)])
    table = Table("train", made.encode_inputs(plain), made.encode_targets(plain), 3, made.changes(3), moves=made.moves(3))
    batch, still = table.batch_at(0, 16), Table("train", made.encode_inputs(plain), made.encode_targets(plain), 3).batch_at(0, 16)
    assert not np.allclose(batch.targets["things"], still.targets["things"])
    for pixels, things in zip(batch.inputs["photo"].numpy(), batch.targets["things"].numpy(), strict=True):
        assert things[0, 0] == 1
        np.testing.assert_allclose(things[0, 1:], bright(pixels), atol=1.6 / 40)
    assert (batch.targets["things"] == table.batch_at(0, 16).targets["things"]).all()
    assert {name: t.shape for name, t in batch.targets.items()} == {name: t.shape for name, t in still.targets.items()}


def test_what_comes_in_from_outside_is_no_reflection():
    made = schema(augment={"crop": 8, "scale": 0.5})
    plain = [made.parse(row(lit((32, 32), (0, 0, 4, 32)), [{"box": [0, 0, 4, 32], "label": "a"}])) for _ in range(8)]
    made.fit([Record(str(n), fields, "", "", str(n)) for n, fields in enumerate(plain)])
    numbers = np.arange(8)
    values = made.encode_inputs(plain)["photo"].values
    for augment in ({"crop": 8}, {"crop": 8, "scale": 0.5}):
        field = made.inputs["photo"]
        assert isinstance(field, ImageField)
        wanted = field.settings.augment.model_copy(update={"scale": 0.0} | augment)
        field.settings = field.settings.model_copy(update={"augment": wanted})
        change = field.change(1)
        assert change is not None
        pixels = change(values, None, numbers)[0]
        across = [np.flatnonzero((picture.min(2) > 140).any(0)) for picture in pixels]
        assert all(len(found) <= 7 for found in across)  # 4 pixels, half as large again, and what is blurred


def test_a_thing_that_training_moves_out_of_sight_is_gone():
    made = schema(augment={"crop": 16})
    plain = [made.parse(row(lit((32, 32), (0, 0, 3, 3)), [{"box": [0, 0, 3, 3], "label": "a"}])) for _ in range(32)]
    made.fit([Record(str(n), fields, "", "", str(n)) for n, fields in enumerate(plain)])
    table = Table("train", made.encode_inputs(plain), made.encode_targets(plain), 0, made.changes(0), moves=made.moves(0))
    batch = table.batch_at(0, 32)
    there = (batch.targets["things"][:, 0, 0] == 1).numpy()
    seen = (batch.inputs["photo"].numpy().min(3) > 200).sum((1, 2))
    assert 2 < there.sum() < 20
    assert (seen[there] > 0).all()
    assert (batch.targets["things"][~there] == 0).all()


@given(st.integers(0, 10_000), st.sampled_from(["pad", "stretch"]), st.integers(20, 90), st.integers(20, 90))
def test_boxes_come_back_as_they_went(seed: int, fit: str, wide: int, high: int):
    picture, things = scene(np.random.default_rng(seed), (wide, high), least=1)
    made = schema(size=[37, 52], fit=fit)
    plain = made.parse(row(picture, things))
    labels, boxes = target(made).value(plain)  # type: ignore[misc]
    made.targets["things"].restore({"labels": sorted(set(labels))})
    classes = [sorted(set(labels)).index(label) + 1 for label in labels]
    outputs = np.concatenate([np.array(classes)[:, None], np.ones((len(boxes), 1)), boxes], 1)[None]
    (answer,) = (target(made).about(found, plain)["answer"] for found in target(made).answers(outputs))
    assert [thing["label"] for thing in answer] == [thing["label"] for thing in things]
    np.testing.assert_allclose([thing["box"] for thing in answer], [thing["box"] for thing in things], atol=0.011)
