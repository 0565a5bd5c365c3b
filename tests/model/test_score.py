"""Scores of documents against a token-by-token computation in float64."""

from __future__ import annotations

import math

import numpy as np
import torch

from tiny import SHAPE
from treadle.model.model import make_model
from treadle.model.score import score_documents


def test_scores_are_the_sum_over_tokens_in_windows():
    model = make_model(SHAPE, 0).eval()
    random = np.random.default_rng(0)
    documents = [np.append(random.integers(1, 300, n), 0).astype(np.uint16) for n in (3, 31, 32, 70, 1)]
    masks = [np.ones(len(d), np.bool_) for d in documents]
    masks[1][:20] = False
    heard: list[int] = []
    found = score_documents(model, documents, masks, heard.append)
    for index, (document, mask) in enumerate(zip(documents, masks, strict=True)):
        nats, correct = 0.0, 0
        for t, token in enumerate(document):
            start = t // SHAPE.context * SHAPE.context
            before = [0 if start == 0 else int(document[start - 1]), *document[start:t].tolist()]
            with torch.no_grad():
                logits = model.logits(torch.tensor([before]))[0, -1].double()
            if mask[t]:
                nats -= float(torch.log_softmax(logits, 0)[int(token)])
                correct += int(logits.argmax()) == token
        assert math.isclose(found.nats[index], nats, rel_tol=1e-5)
        assert (found.correct[index], found.tokens[index]) == (correct, mask.sum())
    assert sum(heard) == found.tokens.sum()


def test_an_untrained_model_is_near_the_uniform_one():
    document = np.append(np.random.default_rng(1).integers(1, 300, 400), 0).astype(np.uint16)
    found = score_documents(make_model(SHAPE, 0), [document], [np.ones(401, np.bool_)])
    assert abs(found.nats[0] / 401 - math.log(300)) < 0.7  # scores of deviation 1 cost half a nat
