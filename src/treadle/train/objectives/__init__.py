"""What is minimised. An objective takes a model and a batch, and gives the loss of that batch."""

from __future__ import annotations

from treadle.core.gradients import Objective
from treadle.core.registry import Registry
from treadle.train.objectives import next_token

OBJECTIVES: Registry[Objective] = Registry("objective")
OBJECTIVES.register("answers")(lambda model, batch: model.loss(batch))
OBJECTIVES.register("next_token")(next_token.per_token)
OBJECTIVES.register("next_token_per_row")(next_token.per_row)
