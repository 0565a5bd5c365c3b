"""What every kind of answer is, beside a field. N records."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from treadle.data.columns import Array
from treadle.data.fields.base import Field


class Target(Field):
    """A head's right answers. ``encode`` gives what the loss takes; a missing one is NaN or ``IGNORE``."""

    @abstractmethod
    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """The head's outputs (N, ...), as ``heads/`` says of each kind, as answers: JSON values with the key ``answer``."""
