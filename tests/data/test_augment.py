"""Changes of pictures against the plain formula for one picture at a time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage

from treadle.data.augment import ImageChange, _colour, _turn, contact_sheet
from treadle.data.chance import uniforms
from treadle.data.columns import Column
from treadle.data.table import Table
from treadle.spec.inputs import ImageAugment

GENERATOR = np.random.default_rng(0)
PICTURES = GENERATOR.integers(0, 256, (40, 9, 7, 3)).astype(np.uint8)
NUMBERS = np.arange(40, dtype=np.int64)
EVERYTHING = {"crop": 2, "flip": True, "rotate": 20.0, "scale": 0.2, "colour": 0.3, "cutout": 3}


def changed(pictures: np.ndarray = PICTURES, numbers: np.ndarray = NUMBERS, seed: int = 0, **wanted: Any) -> np.ndarray:
    return ImageChange(ImageAugment.model_validate(wanted), seed, [10.0, 20.0, 30.0])(pictures, None, numbers)[0]


def test_uniform_numbers_are_uniform_and_unrelated():
    found = uniforms(5, np.arange(20_000), 6)
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1
    np.testing.assert_allclose(found.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(found.var(0), 1 / 12, atol=0.002)
    both = np.concatenate([found[:-1], found[1:], uniforms(6, np.arange(19_999), 6)], 1)
    assert np.abs(np.corrcoef(both.T) - np.eye(18)).max() < 0.03


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=9), st.sampled_from([*EVERYTHING, "all"]))
def test_a_change_follows_from_the_seed_and_the_example_alone(numbers: list[int], which: str):
    wanted = EVERYTHING if which == "all" else {which: EVERYTHING[which]}
    pictures, order = PICTURES[: len(numbers)], np.array(numbers, np.int64)
    whole = changed(pictures, order, **wanted)
    assert whole.shape == pictures.shape
    assert whole.dtype == np.uint8
    for index in range(len(numbers)):
        one = slice(index, index + 1)
        assert (changed(pictures[one], order[one], **wanted) == whole[one]).all()


@pytest.mark.parametrize("which", EVERYTHING)
def test_every_setting_changes_pictures_by_seed_and_example(which: str):
    wanted = {which: EVERYTHING[which]}
    first = changed(**wanted)
    assert (first != PICTURES).any()
    assert (first != changed(seed=1, **wanted)).any()
    assert (first != changed(numbers=NUMBERS + 40, **wanted)).any()


def test_a_crop_is_a_window_of_the_picture_with_its_border():
    found = changed(crop=2)
    seen = set()
    for before, after in zip(PICTURES, found, strict=True):
        border = np.pad(before, ((2, 2), (2, 2), (0, 0)), "symmetric")
        places = [(y, x) for y in range(5) for x in range(5) if (border[y : y + 9, x : x + 7] == after).all()]
        assert len(places) == 1
        seen |= set(places)
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(5))


def test_a_flip_mirrors_half_of_the_pictures():
    found = changed(flip=True)
    mirrored = (found == PICTURES[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (found == PICTURES).all((1, 2, 3))).all()
    many = uniforms(0, np.arange(5000), 3)[:, 2] < 0.5
    assert 0.47 < many.mean() < 0.53
    assert 10 < mirrored.sum() < 30


def test_a_turn_is_that_of_scipy():
    blurred = ndimage.gaussian_filter(PICTURES[:2].astype(float), (0, 1, 1, 0)).round().astype(np.uint8)
    angle, size = np.array([0.3, -0.2]), np.array([1.2, 0.8])
    shift, flip = np.array([[1, -1], [0, 2]]), np.array([False, True])
    found = _turn(blurred, shift, flip, angle, size)
    middle = np.array([4.0, 3.0])
    for index in range(2):
        cos, sin = np.cos(angle[index]) / size[index], np.sin(angle[index]) / size[index]
        matrix = np.array([[cos, sin], [-sin, cos]]) @ np.diag([1.0, -1.0 if flip[index] else 1.0])  # (y, x) -> (y, x)
        offset = middle - matrix @ middle + shift[index]
        for channel in range(3):
            picture = blurred[index, ..., channel].astype(float)
            expected = ndimage.affine_transform(picture, matrix, offset, order=1, mode="reflect")
            assert np.abs(found[index, ..., channel] - expected).max() <= 1.01


def test_shifts_are_the_same_with_and_without_a_turn():
    assert (changed(crop=2, flip=True) == changed(crop=2, flip=True, rotate=1e-9)).all()


@pytest.mark.parametrize(("which", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)])
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_colours_change_as_in_pillow(which: int, enhance: Any, factor: float):
    factors = np.ones((1, 3))
    factors[0, which] = factor
    expected = np.asarray(enhance(Image.fromarray(PICTURES[0])).enhance(factor)).astype(int)
    assert np.abs(_colour(PICTURES[:1], factors)[0] - expected).max() <= 2


def test_a_cutout_sets_one_square_to_the_mean():
    found = changed(cutout=3)
    for before, after in zip(PICTURES, found, strict=True):
        rows, columns = np.nonzero((after != before).any(-1))
        assert 0 < len(rows) <= 9
        assert rows.max() - rows.min() < 3
        assert columns.max() - columns.min() < 3
        assert (after[rows, columns] == (10, 20, 30)).all()


def test_grey_pictures_are_changed_too():
    grey = PICTURES[..., :1]
    found = ImageChange(ImageAugment.model_validate(EVERYTHING), 0, [10.0])(grey, None, NUMBERS)[0]
    assert found.shape == grey.shape
    assert (found != grey).any()


def test_a_table_reads_other_pictures_each_epoch_and_the_same_again():
    change = ImageChange(ImageAugment(flip=True, crop=2), 0, [0.0] * 3)
    plain, table = (
        Table("train", {"photo": Column(PICTURES)}, {}, 0, augment) for augment in ({}, {"photo": change})
    )
    first, second = table.rows(NUMBERS), table.rows(NUMBERS + 40)
    assert (first.inputs["photo"] == table.rows(NUMBERS).inputs["photo"]).all()
    expected = change(plain.rows(NUMBERS + 40).inputs["photo"].numpy(), None, NUMBERS + 40)[0]
    assert (second.inputs["photo"].numpy() == expected).all()


def test_the_contact_sheet_draws_boxes_where_things_are():
    pictures = np.zeros((2, 20, 30, 1), np.uint8)
    pictures[:, 4:10, 3:12] = 255
    boxes = np.array([[[1, 7.5 / 30, 7 / 20, 9 / 30, 6 / 20], [0] * 5]] * 2, np.float32)
    change = ImageChange(ImageAugment(flip=True), 0, [0.0])

    def move(values: np.ndarray, lengths: Any, numbers: np.ndarray) -> Any:
        middles, _ = change.places(values[..., 1:3], numbers, (20, 30))
        return np.concatenate([values[..., :1], middles, values[..., 3:]], 2), lengths

    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(pictures, change, draws=4, scale=3, boxes=boxes, move=move))))
    orange = (sheet == (232, 89, 12)).all(2)
    for row in range(2):
        for column in range(5):
            here = np.s_[row * 66 : row * 66 + 60, column * 96 : column * 96 + 90]
            white, drawn = (sheet[here].min(2) == 255) | orange[here], orange[here]
            down, across = np.nonzero(white)
            assert (down.min(), down.max() + 1, across.max() + 1 - across.min()) == (12, 30, 27)
            assert drawn[12:30, [across.min(), across.max()]].all()
            assert drawn[[12, 29], across.min() : across.max()].all()
    wide = np.asarray(Image.open(io.BytesIO(contact_sheet(np.zeros((1, 10, 400, 3), np.uint8), change))))
    assert wide.shape[1] == 1000


def test_the_contact_sheet_shows_each_picture_and_its_changes():
    change = ImageChange(ImageAugment(flip=True), 0, [0.0] * 3)
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(PICTURES[:3], change, draws=4, scale=1))))
    assert sheet.shape == (3 * 11, 5 * 9, 3)
    for row in range(3):
        cells = [sheet[row * 11 :, column * 9 :][:9, :7] for column in range(5)]
        assert (cells[0] == PICTURES[row]).all()
        assert all((cell == PICTURES[row]).all() or (cell == PICTURES[row][:, ::-1]).all() for cell in cells[1:])
