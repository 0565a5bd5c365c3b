"""One token from the scores of what follows. V entries of the vocabulary.

In this order, as vLLM has it: bias, penalties, temperature, ``min_p``, ``top_k``, ``top_p``, and the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-3  # below this a temperature is 0: the division would overflow


@dataclass(frozen=True)
class Sampling:
    """How to draw."""

    temperature: float = 1.0
    """0, and anything below a thousandth: always the likeliest token."""
    top_p: float = 1.0
    """The fewest tokens whose probability reaches this (Holtzman et al. 2020)."""
    top_k: int = 0
    """So many of the likeliest (Fan et al. 2018); 0: all."""
    min_p: float = 0.0
    """Those with at least this share of the likeliest one's probability (Nguyen et al. 2024)."""
    presence: float = 0.0
    """Taken off the score of every token of the answer so far, once."""
    frequency: float = 0.0
    """The same, as often as it stands there."""
    repetition: float = 1.0
    """Scores above 0 of tokens of prompt and answer are divided by this, others multiplied (Keskar et al. 2019)."""
    bias: tuple[tuple[int, float], ...] = ()
    """Added to the scores of tokens."""

    @property
    def plain(self) -> bool:
        """Whether scores stay as they are."""
        return not self.bias and not self.presence and not self.frequency and self.repetition == 1.0


class Adjusted:
    """Scores of one text after bias and penalties, which follow from its tokens so far."""

    def __init__(self, how: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self.how = how
        self._counts = torch.zeros(vocabulary)
        self._known = torch.zeros(vocabulary, dtype=torch.bool)
        self._known[torch.tensor(prompt, dtype=torch.long)] = True
        self._bias = torch.zeros(vocabulary)
        for token, amount in how.bias:
            self._bias[token] += amount

    def push(self, token: int) -> None:
        """The answer goes on with ``token``."""
        self._counts[token] += 1
        self._known[token] = True

    def __call__(self, scores: Tensor) -> Tensor:
        """(V,) -> (V,)"""
        scores = scores + self._bias
        if self.how.repetition != 1.0:
            factor = torch.where(scores > 0, 1 / self.how.repetition, self.how.repetition)
            scores = torch.where(self._known, scores * factor, scores)
        return scores - self.how.frequency * self._counts - self.how.presence * (self._counts > 0)


def sample(scores: Tensor, how: Sampling, generator: torch.Generator) -> int:
    """One token from ``scores`` (V,), bias and penalties done."""
    if how.temperature < COLDEST:
        return int(scores.argmax())
    probabilities = torch.softmax(scores.double() / how.temperature, dim=-1)
    if how.min_p:
        probabilities = torch.where(probabilities >= how.min_p * probabilities.amax(), probabilities, 0.0)
    if (how.top_k and how.top_k < len(scores)) or how.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        if how.top_k:
            ordered[how.top_k :] = 0
        whole = ordered.sum()
        keep = ordered.cumsum(0) - ordered < how.top_p * whole  # the token that crosses the mark stays in
        probabilities = torch.zeros_like(probabilities).scatter_(0, order[keep], ordered[keep])
    return int(torch.multinomial(probabilities, 1, generator=generator))


@dataclass(frozen=True)
class Likely:
    """A token that was written, and what the model thought of it: natural logarithms of probabilities, before bias, penalties and
    temperature."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens there, as many as were asked for."""


def likely(scores: Tensor, token: int, count: int) -> Likely:
    """Of ``token`` and the ``count`` likeliest by ``scores`` (V,)."""
    logprobs = torch.log_softmax(scores.double(), dim=-1)
    values, tokens = logprobs.topk(min(count, len(scores)))
    return Likely(token, float(logprobs[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))
