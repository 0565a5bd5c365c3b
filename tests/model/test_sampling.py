"""Drawing tokens, beside the processors of transformers, and how likely they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treadle.model.sampling import Adjusted, Sampling, likely, sample

SIZE = 12


def scores(seed: int, size: int = SIZE) -> torch.Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def drawn(given: torch.Tensor, how: Sampling, count: int = 400) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    return {sample(given, how, generator) for _ in range(count)}


def left(given: torch.Tensor, *processors: Any) -> set[int]:
    """Tokens that may be drawn after ``transformers``' processors."""
    found = given[None].double()
    for processor in processors:
        found = processor(torch.zeros(1, 0, dtype=torch.long), found)
    probabilities = found[0].softmax(0)
    return {token for token in range(len(given)) if probabilities[token] > 0}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", [
    Sampling(0.8, top_k=3), Sampling(1.5, min_p=0.1), Sampling(1.0, top_p=0.7), Sampling(2.0, top_p=0.6, top_k=4, min_p=0.02),
    Sampling(0.5, top_k=100), Sampling(1.0, min_p=1.0),
])
def test_what_may_be_drawn_is_what_transformers_leaves(seed: int, how: Sampling):
    from transformers.generation import logits_process as theirs

    processors = [theirs.TemperatureLogitsWarper(how.temperature)]
    processors += [theirs.MinPLogitsWarper(how.min_p)] if how.min_p else []
    processors += [theirs.TopKLogitsWarper(how.top_k)] if how.top_k else []
    processors += [theirs.TopPLogitsWarper(how.top_p)] if how.top_p < 1 else []
    given, allowed = scores(seed), left(scores(seed), *processors)
    assert drawn(given, how) <= allowed
    share = given.double().div(how.temperature).softmax(0)
    assert {token for token in allowed if share[token] > 0.03} <= drawn(given, how)


def test_draws_have_the_softmax_as_frequencies():
    given, generator = scores(3, 5), torch.Generator().manual_seed(1)
    found = np.bincount([sample(given, Sampling(1.3), generator) for _ in range(6000)], minlength=5) / 6000
    np.testing.assert_allclose(found, (given.double() / 1.3).softmax(0).numpy(), atol=0.025)


@given(st.lists(st.integers(0, SIZE - 1), max_size=8), st.lists(st.integers(0, SIZE - 1), max_size=8), st.integers(0, 1000))
def test_penalties_and_bias_are_their_formulas(prompt: list[int], answer: list[int], seed: int):
    how = Sampling(presence=0.5, frequency=-0.25, repetition=1.7, bias=((3, -100.0), (5, 2.5), (3, 1.0)))
    adjusted, raw = Adjusted(how, prompt, SIZE), scores(seed)
    for token in answer:
        adjusted.push(token)
    expected = []
    for token in range(SIZE):
        value = float(raw[token]) + {3: -99.0, 5: 2.5}.get(token, 0.0)
        if token in prompt or token in answer:
            value = value / 1.7 if value > 0 else value * 1.7
        expected.append(value + 0.25 * answer.count(token) - 0.5 * (token in answer))
    np.testing.assert_allclose(adjusted(raw).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_repetition_penalty_is_that_of_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    prompt = [1, 4, 4, 7]
    theirs = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([prompt]), scores(2)[None].clone())[0]
    torch.testing.assert_close(Adjusted(Sampling(repetition=1.4), prompt, SIZE)(scores(2)), theirs)


def test_how_likely_a_token_was():
    found = likely(scores(1), 4, 3)
    expected = scores(1).double().log_softmax(0)
    assert (found.token, found.logprob) == (4, pytest.approx(float(expected[4])))
    assert [token for token, _ in found.top] == expected.argsort(descending=True)[:3].tolist()
    assert likely(scores(1), 4, 0).top == ()
    assert len(likely(scores(1), 4, 99).top) == SIZE
