"""``tune:`` which settings are tried, and by what they are judged. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from treadle.spec.fields import Section
from treadle.spec.stages import Metric

Choices = Annotated[list[Any], Field(min_length=1)]


class Range(Section):
    """Numbers from ``low`` to ``high``; whole ones where both are whole."""

    low: int | float
    high: int | float
    log: bool = False
    """Try each power of ten as often as the others."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"'log: true' needs a low above 0, not {self.low:g}")
        return self


class Tune(Section):
    search: dict[str, Choices | Range] = {}
    """Key of this file to what is tried for it: a range, as in ``train.learning_rate: {low: 0.0003, high: 0.01, log: true}``, or a
    list of values, as in ``model.trunk.mlp.width: [64, 256]``."""
    trials: int = Field(default=20, ge=1, le=100_000)
    """How many in all, with those of earlier calls that searched the same."""
    measure: Metric = "loss"
    """What is best: the lowest validation loss, or a head's figure on the validation part, as in ``accuracy`` or ``digit.f1``."""
    storage: str | None = None
    """SQLAlchemy URL that several machines may share, such as ``postgresql+psycopg://$USER:$PASSWORD@host/db`` ($NAMES come from
    the environment); None: an SQLite file in the store."""
