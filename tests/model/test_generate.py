"""Generation with a cache equals reading everything again at each token; sampling draws from the stated distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tiny import SHAPE
from treadle.model.generate import generate
from treadle.model.model import LanguageModel, make_model
from treadle.model.sampling import Sampling, sample


@pytest.fixture(scope="module", params=[True, False], ids=["qk_norm", "plain"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(replace(SHAPE, qk_norm=request.param), 0).eval()


def test_greedy_generation_is_argmax_of_the_whole_pass(model: LanguageModel):
    ids = [5, 6, 7]
    with torch.no_grad():
        for _ in range(10):
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert list(generate(model, [5, 6, 7], 10)) == ids[3:]


def test_generation_ends_at_the_end_mark_and_at_a_full_context(model: LanguageModel):
    free = list(generate(model, [1], 100))
    assert len(free) == model.shape.context  # the last token is predicted from a full context
    end = free[4]
    assert list(generate(model, [1], 100, end=end)) == free[: free.index(end)]


def test_sampling_draws_from_the_softmax():
    logits, generator = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.Generator().manual_seed(0)
    drawn = np.bincount([sample(logits, Sampling(0.7, 1.0), generator) for _ in range(8000)], minlength=4) / 8000
    expected = torch.softmax(logits.double() / 0.7, 0).numpy()
    assert np.abs(drawn - expected).max() < 0.02
    assert sample(logits, Sampling(0.0, 1.0), generator) == 0


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits, generator = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25])), torch.Generator().manual_seed(0)
    assert {sample(logits, Sampling(1.0, 0.7), generator) for _ in range(500)} == {1, 3}
    assert {sample(logits, Sampling(1.0, 0.76), generator) for _ in range(500)} == {1, 2, 3}
    assert {sample(logits, Sampling(1.0, 1e-9), generator) for _ in range(50)} == {1}


def test_the_seed_decides(model: LanguageModel):
    one, same, other = (list(generate(model, [1, 2], 20, temperature=1.0, seed=s)) for s in (3, 3, 4))
    assert one == same != other
