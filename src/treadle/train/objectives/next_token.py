"""Predict the next token. B rows, T positions."""

from __future__ import annotations

from torch import Tensor

from treadle.core.batch import IGNORE, Batch
from treadle.model.layers.cross_entropy import row_shares
from treadle.model.model import LanguageModel


def per_token(model: LanguageModel, batch: Batch) -> Tensor:
    """Mean cross-entropy (nats) over the predicted tokens of the batch: a long row weighs more than a short one."""
    return model.loss(batch)


def per_row(model: LanguageModel, batch: Batch) -> Tensor:
    """Mean over rows of each row's mean cross-entropy (nats): a user's short correction weighs as much as a full window."""
    return model.weighted_loss(batch, row_shares(batch.targets[model.head] != IGNORE))
