"""What an encoded field looks like to a model: all that inputs and heads are built from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """Sizes and statistics of one field, fitted on the train part. What a kind does not have is 0 or empty."""

    kind: str
    """As in ``spec.inputs.Input`` or ``spec.heads.Head``."""
    vocabulary: int = 0
    """Ids run from 0 to one less; classes or labels of a head."""
    length: int = 0
    """Most positions."""
    height: int = 0
    width: int = 0
    channels: int = 0
    """Features of each pixel, frame or vector."""
    patch: int = 0
    edges: tuple[float, ...] = ()
    """Ascending bounds of a piecewise linear encoding."""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    """Of each channel."""
    weights: tuple[float, ...] = ()
    """Of each class in the loss."""
    options: Mapping[str, Any] | None = None
    """A head's own settings, such as its loss."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without what is empty."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Layout:
        """The inverse of ``as_dict``."""
        values: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}
        return cls(**values)
