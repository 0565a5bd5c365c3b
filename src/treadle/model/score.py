"""How well a model predicts documents: the sum of its surprise over each one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from treadle.core.batch import IGNORE, Batch
from treadle.model.memory import TextModel
from treadle.model.network import Network

ROWS = 16


@dataclass(frozen=True)
class DocumentScores:
    """Per document (D): surprise in nats, predicted tokens that were the likeliest, predicted tokens."""

    nats: npt.NDArray[np.float64]
    correct: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


@torch.inference_mode()
def score_documents(
    model: TextModel, documents: Sequence[npt.NDArray[np.uint16]], predicted: Sequence[npt.NDArray[np.bool_]],
    done: Callable[[int], None] = lambda tokens: None, logits_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> DocumentScores:
    """Score ``documents``, each ending in the end mark, in float32. ``predicted`` says which tokens count; ``logits_of``: tokens
    (B, T) -> (B, T, V), in place of the model's own.

    A document starts from the end mark alone. One of more than ``context`` tokens is read in windows without overlap, so a
    token has between 1 and ``context`` tokens before it: the figure is an upper bound of what a sliding window would give.
    """
    T = model.context
    pieces = [(d, s) for d, tokens in enumerate(documents) for s in range(0, len(tokens), T)]
    pieces.sort(key=lambda piece: -min(T, len(documents[piece[0]]) - piece[1]))  # rows of like length share a batch
    nats, correct = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    model.eval()
    for first in range(0, len(pieces), ROWS):
        rows = pieces[first : first + ROWS]
        width = min(T, len(documents[rows[0][0]]) - rows[0][1])
        read = np.zeros((len(rows), width), np.int64)
        target = np.zeros((len(rows), width), np.int64)
        counts = np.zeros((len(rows), width), np.bool_)
        for row, (d, s) in enumerate(rows):
            tokens = documents[d][s : s + T].astype(np.int64)
            n = len(tokens)
            before = documents[d][s - 1] if s else documents[d][-1]  # the end mark also starts a document
            target[row, :n], counts[row, :n] = tokens, predicted[d][s : s + T]
            read[row, 0], read[row, 1:n] = before, tokens[:-1]
        logits = (logits_of or model.logits)(torch.from_numpy(read)).float()  # (B, T, V)
        wanted = torch.from_numpy(target)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted).double().numpy()
        hit = (logits.argmax(-1) == wanted).numpy()
        for row, (d, _) in enumerate(rows):
            nats[d] += float((loss[row] * counts[row]).sum())
            correct[d] += int((hit[row] & counts[row]).sum())
        done(int(counts.sum()))
    return DocumentScores(nats, correct, np.array([int(mask.sum()) for mask in predicted], np.int64))


@torch.inference_mode()
def score_masked(
    network: Network, pieces: Sequence[tuple[int, Batch]], documents: int, done: Callable[[int], None] = lambda pieces: None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per document, over its (document, piece of one row): surprise in nats at the hidden tokens, how many were found, how many
    there are."""
    nats, correct, count = np.zeros(documents), np.zeros(documents), np.zeros(documents)
    network.eval()
    for place, batch in pieces:
        (logits,), (wanted,) = network(batch).values(), batch.targets.values()
        hidden = wanted[0] != IGNORE
        scores, right = logits[0][hidden].float(), wanted[0][hidden]
        nats[place] += float(F.cross_entropy(scores, right, reduction="none").double().sum())
        correct[place] += int((scores.argmax(-1) == right).sum())
        count[place] += len(right)
        done(1)
    return nats, correct, count
