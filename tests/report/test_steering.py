"""What the report says of chosen settings, ways back and the gradient noise scale."""

from __future__ import annotations

import pytest

from treadle.report.steering import chosen, noise_words, returns

CURVE = [[1e-5, 2.0], [1e-3, 1.5], [0.04, 1.0], [0.1, 4.0]]
ROW = {"key": "learning_rate", "value": "0.004", "reason": "a tenth of 0.04", "curve": CURVE}


def test_a_curve_is_drawn_with_its_reason():
    page = chosen({"derived": [{"key": "budget", "value": "3", "reason": "given"}, ROW]})
    assert page.count("<figure>") == 1
    assert "range test of the learning rate" in page
    assert "learning_rate 0.004: a tenth of 0.04." in page
    assert chosen({}) == ""


def test_a_curve_of_batches_is_drawn_by_powers_of_two():
    page = chosen({"derived": [{"key": "batch", "value": "64", "reason": "r", "curve": [[32, 2e-3], [64, 1e-3], [128, 1e-3]]}]})
    assert "seconds per example" in page
    assert ">64<" in page


def test_ways_back_are_told():
    one = returns({"returns": [{"words": "at step 5 the loss jumped <&"}]})
    assert "left its course once" in one
    assert "At step 5 the loss jumped &lt;&amp;." in one
    assert "left its course 2 times" in returns({"returns": [{"words": "a"}, {"words": "b"}]})
    assert returns({"returns": []}) == returns({}) == ""


@pytest.mark.parametrize(("noise", "said"), [(1000.0, "far below it"), (10.0, "far above it"), (100.0, "near it")])
def test_the_noise_scale_judges_the_batch(noise: float, said: str):
    words = noise_words({"noise_scale": noise}, 64, "records")
    assert said in words
    assert f"about {noise:g} records" in words
    assert "sequences" in noise_words({"noise_scale": noise}, 64, "tokens")
    assert noise_words({"noise_scale": None}, 64, "records") == ""
