"""The n-gram model is a probability distribution and equals a plain implementation of its formula."""

from __future__ import annotations

import lzma
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.evaluate.baselines import NGram, compressed_nats

streams = st.lists(st.integers(0, 5), min_size=4, max_size=80).map(lambda ids: np.array([*ids, 0], np.uint16))


@given(streams, st.integers(1, 3), st.lists(st.integers(0, 5), max_size=4))
def test_probabilities_sum_to_one(stream: np.ndarray, order: int, context: list[int]):
    model = NGram(stream, 6, order)
    start = model.nats(np.array([*context, 0], np.uint16)) if context else 0.0
    total = 0.0
    for token in range(6):
        # nats() closes a document with its last token, so two tokens that differ in the last place isolate one probability.
        document = np.array([*context, token, 0], np.uint16)
        first = model.nats(document) - _last(model, document)
        before = _prefix(model, np.array([*context, 0], np.uint16)) if context else 0.0
        total += math.exp(-(first - before))
    assert total == pytest.approx(1.0, abs=1e-9)
    assert start >= 0


def _reference(stream: np.ndarray, vocabulary: int, order: int, context: tuple[int, ...], token: int) -> float:
    """Interpolated Kneser-Ney straight from Chen and Goodman's definition, with dictionaries."""
    grams = [Counter(tuple(stream[i : i + n].tolist()) for i in range(len(stream) - n + 1)) for n in range(order + 1)]
    top = {g: float(c) for g, c in grams[order].items()}
    counts = {order: top}
    for n in range(order - 1, 0, -1):
        counts[n] = dict(Counter(g[1:] for g in counts[n + 1]))

    def probability(n: int, history: tuple[int, ...]) -> float:
        if n == 0:
            return 1 / vocabulary
        history = history[len(history) - (n - 1) :] if n > 1 else ()
        once, twice = (sum(1 for c in counts[n].values() if c == k) for k in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(c for g, c in counts[n].items() if g[:-1] == history)
        if not total:
            return probability(n - 1, history)
        followers = sum(1 for g in counts[n] if g[:-1] == history)
        seen = max(counts[n].get((*history, token), 0) - discount, 0)
        return (seen + discount * followers * probability(n - 1, history)) / total

    return probability(order, context)


@given(streams, st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_it_is_kneser_ney(stream: np.ndarray, order: int, ids: list[int]):
    document = np.array([*ids, 0], np.uint16)
    expected, history = 0.0, (0,) * (order - 1)
    for token in document.tolist():
        expected -= math.log(_reference(stream, 6, order, history, token))
        history = (*history, token)[-(order - 1) :] if order > 1 else ()
    assert NGram(stream, 6, order).nats(document) == pytest.approx(expected, abs=1e-9)


def _prefix(model: NGram, document: np.ndarray) -> float:
    return model.nats(document) - _last(model, document)


def _last(model: NGram, document: np.ndarray) -> float:
    """Surprise of the closing token alone."""
    history = np.concatenate([[document[-1]] * (model.order - 1), document]).astype(np.int64)
    probability = np.array([1 / model.vocabulary])
    for order in range(1, model.order + 1):
        gram = 0
        for token in history[len(history) - order :]:
            gram = gram * model.vocabulary + int(token)
        probability = model.levels[model.order - order].probability(np.array([gram]), probability)
    return float(-np.log(probability[0]))


def test_more_context_and_more_data_help_on_text_with_structure():
    random = np.random.default_rng(0)

    def text(count: int) -> np.ndarray:
        ids = [1]
        for _ in range(count):
            kind = random.random()
            ids.append(int((ids[-1] + ids[-2:][0]) % 7 if kind < 0.5 else (ids[-1] + 1) % 7 if kind < 0.9 else random.integers(7)))
        return np.array([*ids, 0], np.uint16)

    train, test = text(20_000), text(500)
    surprises = [NGram(train, 7, order).nats(test) for order in (1, 2, 3)]
    assert surprises[0] > surprises[1] > surprises[2]


def test_the_compressor_is_lzma_without_headers():
    texts = [b"abc" * 500, b"", bytes(range(256)) * 3]
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    found = compressed_nats(texts)
    for text, nats in zip(texts, found, strict=True):
        packed = lzma.compress(text, format=lzma.FORMAT_RAW, filters=raw)
        assert lzma.decompress(packed, format=lzma.FORMAT_RAW, filters=raw) == text
        assert nats == pytest.approx(len(packed) * 8 * math.log(2))
