"""Error rates of transcripts against edit distances that are found by trying everything."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treadle.data.targets.transcript import TranscriptTarget
from treadle.evaluate.answers import HeadScores, head_figures
from treadle.evaluate.metrics import weights
from treadle.evaluate.transcripts import edit_distance
from treadle.spec.heads import Transcript


@cache
def tried(one: str, two: str) -> int:
    """The definition: the cheapest of every first step."""
    if not one or not two:
        return len(one) + len(two)
    return min(tried(one[1:], two) + 1, tried(one, two[1:]) + 1, tried(one[1:], two[1:]) + (one[0] != two[0]))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_the_cheapest_way(one: str, two: str):
    assert edit_distance(one, two) == tried(one, two)


def test_known_distances():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("intention", "execution") == 5
    assert edit_distance(["the", "cat", "sat"], ["a", "cat", "sat", "down"]) == 2
    assert edit_distance("", "") == 0


def transcripts(*texts: str) -> TranscriptTarget:
    target = TranscriptTarget("said", Transcript(), ["said"])
    target.fit(texts)
    return target


def test_texts_are_ids_and_back():
    target = transcripts("two one", "zwölf", "one")
    texts = ["one two", "w", "zxy öone"]
    ids, lengths = target.encode(texts).rows(np.arange(3))
    assert lengths is not None
    assert lengths.tolist() == [7, 1, 8]
    assert [row["answer"] for row in target.answers(ids.astype(np.float32))] == ["one two", "w", "z\ufffd\ufffd öone"]
    again = TranscriptTarget("said", Transcript(), ["said"])
    again.restore(target.state())
    assert np.array_equal(again.encode(texts).values, target.encode(texts).values)
    assert again.layout == target.layout
    assert again.layout.vocabulary == 2 + len(set("two onezwölf"))


def test_error_rates_count_over_all_records_with_an_interval():
    target = transcripts("one two three")
    said, heard = ["one two", "three", "one"], ["one to", "tree", "one one two"]
    (right, _), (given_, _) = (target.encode(texts).rows(np.arange(3)) for texts in (said, heard))
    drawn = weights(3, 500, 0)
    scores = HeadScores("ctc", given_, right, np.array([1.0, 2.0, 3.0]))
    found = head_figures(scores, target, drawn)
    assert found["loss"].value == 2.0
    assert found["character_error"].value == (1 + 1 + 8) / (7 + 5 + 3)
    assert found["word_error"].value == (1 + 1 + 2) / (2 + 1 + 1)
    assert found["character_error"].low < found["character_error"].value < found["character_error"].high
    perfect = head_figures(HeadScores("ctc", right, right, np.ones(3)), target, drawn)
    assert perfect["word_error"].as_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_character_never_seen_in_training_is_an_error():
    target = transcripts("one")
    (right, _), (given_, _) = (target.encode([text]).rows(np.arange(1)) for text in ("oxe", "one"))
    found = head_figures(HeadScores("ctc", given_, right, np.ones(1)), target, np.ones((10, 1)))
    assert found["character_error"].value == 1 / 3
