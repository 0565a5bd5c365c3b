"""What each kind of model brings to the making of a package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from treadle.data.reference import References
from treadle.store.artifacts import Artifact


class Packing(ABC):
    """A scored model that is to be packaged: how it is read, made smaller and written, and what shows that it is still the same."""

    described: ClassVar[str]
    """File of the model's folder that goes along: how inputs are turned into numbers."""
    weights: ClassVar[str] = "none"
    """Kind of weights where ``compress.quantize`` names none."""
    measure: ClassVar[str] = "loss"
    """What the drift is a rise of; lower is better."""

    def __init__(self, model: Artifact, scorecard: Artifact, dataset: Artifact) -> None:
        self.model, self.scorecard, self.dataset = model, scorecard, dataset

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """The model in ``folder``, in evaluation mode."""

    @abstractmethod
    def quantize(self, model: Any, kind: str) -> None:
        """Hold its matrices as ``kind``, in place: ``int8``, of a language model also ``int4``."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None: ...

    @abstractmethod
    def before(self) -> float:
        """The measure, as the scorecard has it."""

    @abstractmethod
    def after(self, packed: Any) -> float:
        """The same of ``packed``, over exactly what the scorecard scored."""

    @abstractmethod
    def speeds(self, original: Any, packed: Any) -> tuple[str, list[float]]:
        """A unit, and how many of it each of the two does in a second, taken in turn."""

    def references(self, packed: Any) -> References:
        """What of the training part and of ``packed``'s own answers later ones are compared with; nothing for what is never
        asked."""
        return {}
