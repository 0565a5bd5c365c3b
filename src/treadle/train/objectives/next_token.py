"""Predict the next token. B rows, T positions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from treadle.core.batch import IGNORE, Batch
from treadle.model.model import LanguageModel


def per_token(model: LanguageModel, batch: Batch) -> Tensor:
    """Mean cross-entropy (nats) over the predicted tokens of the batch: a long row weighs more than a short one."""
    return model.loss(batch)


def per_row(model: LanguageModel, batch: Batch) -> Tensor:
    """Mean over rows of each row's mean cross-entropy (nats): a user's short correction weighs as much as a full window."""
    targets = batch.targets[model.head]  # (B, T)
    logits = model.logits(batch.inputs[model.input])  # (B, T, V)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="none").view_as(targets)
    counts = (targets != IGNORE).sum(1)
    rows = loss.sum(1) / counts.clamp_min(1)
    return rows.sum() / (counts > 0).sum().clamp_min(1)
