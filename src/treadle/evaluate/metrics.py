"""Figures of merit with 95% intervals, from per-document scores. D documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Per document: surprise in nats, likeliest token right, predicted tokens, predicted bytes."""

    nats: Floats
    correct: Floats
    tokens: Floats
    bytes: Floats


@dataclass(frozen=True)
class Figure:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def weights(documents: int, resamples: int, seed: int) -> Floats:
    """(resamples, D): how often each document is drawn in each bootstrap resample (Efron and Tibshirani 1993, chapter 6)."""
    draw = np.random.default_rng(seed).multinomial(documents, np.full(documents, 1 / documents), size=resamples)
    return draw.astype(np.float64)


def interval(value: float, resampled: Floats) -> Figure:
    """The percentile interval of the resampled values."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Figure(float(value), float(low), float(high))


def ratio(top: Floats, bottom: Floats, drawn: Floats, finish: Callable[[Floats], Floats] = lambda x: x) -> Figure:
    """sum(top) / sum(bottom) over documents, through ``finish``, with its interval over the resamples ``drawn``."""
    value = finish(np.array([top.sum() / bottom.sum()]))[0]
    return interval(value, finish((drawn @ top) / (drawn @ bottom)))


def share(top: Floats, bottom: Floats, drawn: Floats) -> Figure:
    """The same for counts that may all be 0, which gives 0."""
    return interval(top.sum() / max(bottom.sum(), 1e-12), (drawn @ top) / np.maximum(drawn @ bottom, 1e-12))


def bits_per_byte(nats: Floats, size: Floats, drawn: Floats) -> Figure:
    """Surprise in bits per byte of text: comparable between tokenizers, and with a compressor."""
    return ratio(nats / math.log(2), size, drawn)


def figures(scores: Scores, drawn: Floats) -> dict[str, Figure]:
    """loss: nats per token. perplexity: exp(loss). bits_per_byte. accuracy: share of tokens that were the likeliest."""
    return {
        "loss": ratio(scores.nats, scores.tokens, drawn),
        "perplexity": ratio(scores.nats, scores.tokens, drawn, np.exp),
        "bits_per_byte": bits_per_byte(scores.nats, scores.bytes, drawn),
        "accuracy": ratio(scores.correct, scores.tokens, drawn),
    }
