"""What trackers have in common: which steps they are sent, and that trouble with them is none of the training's."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.core.progress import say
from treadle.train.hooks import Step, Thinning, step_figures, validation_figures


@dataclass(frozen=True)
class Told:
    """What a tracker is told of a run before it begins."""

    project: str
    run: str
    """The model's id, from which its settings follow."""
    settings: Mapping[str, Any]
    """Name with dots -> value."""
    folder: Path
    """Of the store, for what the tracker keeps on this machine."""
    workspace: Path
    """Of the run, which goes on here after an interruption."""


class Tracker(ABC):
    """A hook that sends figures on. What goes wrong with it is said once and ends the sending, not the training."""

    name = ""

    def __init__(self, told: Told) -> None:
        self.told, self.broken = told, False
        self._wanted = Thinning()
        self._note = told.workspace / f"{self.name}.json"

    def on_step(self, figures: Step) -> None:
        if not self.broken and self._wanted(figures):
            self._try(self.send, step_figures(figures), figures.step)

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        self._try(self.send, validation_figures(loss, trained), figures.step)

    def open(self) -> None:
        """Begin, or go on with the run that an interrupted process began."""
        self._try(self.begin, self._earlier())

    def close(self, done: bool) -> None:
        """``done``: the run came to its end; else it may go on later."""
        self._try(self.end, done)

    @abstractmethod
    def begin(self, earlier: str | None) -> None:
        """Open the run, ``earlier`` if there is one, and ``remember`` its id."""

    @abstractmethod
    def send(self, figures: Mapping[str, float], step: int) -> None: ...

    @abstractmethod
    def end(self, done: bool) -> None: ...

    def remember(self, id: str) -> None:
        """For the process that goes on after an interruption."""
        self._note.write_text(json.dumps({"run": id}), encoding="utf-8")

    def _earlier(self) -> str | None:
        try:
            return str(json.loads(self._note.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError):
            return None

    def _try(self, what: Any, *given: Any) -> None:
        if self.broken:
            return
        try:
            what(*given)
        except Exception as error:  # of whatever kind: the run is worth more than its copy
            self.broken = True
            say(f"{self.name} takes no more figures of this run ({type(error).__name__}: {error}); training goes on")
