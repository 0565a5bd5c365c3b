"""What is minimised. An objective takes a model and a batch, and gives the loss of that batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from treadle.core.batch import Batch
from treadle.core.registry import Registry
from treadle.train.objectives import next_token

Objective = Callable[[Any, Batch], Tensor]

OBJECTIVES: Registry[Objective] = Registry("objective")
OBJECTIVES.register("answers")(lambda model, batch: model.loss(batch))
OBJECTIVES.register("next_token")(next_token.per_token)
OBJECTIVES.register("next_token_per_row")(next_token.per_row)
