"""What every kind of answer is, beside a field. N records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from treadle.data.columns import Array
from treadle.data.fields.base import Field
from treadle.data.steps.redact import Moves


class Target(Field):
    """A head's right answers. ``encode`` gives what the loss takes; a missing one is NaN or ``IGNORE``."""

    def rows(self, fields: Mapping[str, Any], training: bool) -> list[Mapping[str, Any]]:
        """What the model is asked of a record, to train on or to be measured by: most often the record as it is."""
        return [fields]

    def answered(self, raw: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """What a row as it came must hold beside, for ``answer`` to be its right one. Raises ``BadValue``."""
        return {self.columns[0]: answer}

    def agree(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What of a record's plain columns changes once the answer was held against the inputs. Raises ``BadValue`` where it
        cannot be one about them."""
        return {}

    def moved(self, answer: Any, column: str, moves: Moves) -> Any:
        """A plain answer after ``moves`` in the text of ``column``: another one only where it counts characters."""
        return answer

    def about(self, answer: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """One of ``answers`` in the terms of the record that it is about: most often as it is."""
        return answer

    @abstractmethod
    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """The head's outputs (N, ...), as ``heads/`` says of each kind, as answers: JSON values with the key ``answer``."""
