"""How a training goes, in a terminal and from another process: the one that is going on, or else what became of the last.
Imports no torch."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from treadle.report.braille import MARK, text_chart
from treadle.report.facts import artifact_facts
from treadle.spec.units import format_count, format_duration, significant
from treadle.store.artifacts import Store
from treadle.store.notes import is_alive, read_notes

_EVERY = 1.0  # seconds between two frames
_RECENT = 100  # steps that speed and time left are taken from
_HEIGHT = 10
_WIDEST = 120
_STYLES = (("[\u2800-\u28ff]", "blue"), (MARK, "dark_orange3"), ("[━╸]", "blue"), ("[─│└┤]", "dim"))


@dataclass
class Seen:
    """A training as it stands. ``state``: running, stopped, done, or none."""

    state: str
    model: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    """As the training wrote it at its start; of one that is done, the model's counts."""
    history: Sequence[Mapping[str, float]] = ()
    facts: Sequence[str] = ()
    """Of one that is done."""

    @property
    def steps(self) -> list[Mapping[str, float]]:
        return [line for line in self.history if "loss" in line]

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        if not self.steps or self.state == "done":
            return float(self.state == "done")
        last, whole = self.steps[-1], self.note.get("steps")
        return float(min(1.0, last["step"] / whole if whole else last["seconds"] / self.note["seconds"]))

    @property
    def speed(self) -> float:
        """Units a second, of the last steps."""
        return _change(self.steps[-_RECENT:], "tokens") or (self.steps[-1]["tokens_per_second"] if self.steps else 0.0)

    @property
    def left(self) -> float | None:
        """Seconds to the end of the budget."""
        if self.state != "running" or not self.steps:
            return None
        last, whole = self.steps[-1], self.note.get("steps")
        if not whole:
            return max(0.0, float(self.note["seconds"] - last["seconds"]))
        rate = _change(self.steps[-_RECENT:], "step")
        return (whole - last["step"]) / rate if rate else None

    def as_dict(self) -> dict[str, Any]:
        """JSON values; what is not known is None."""
        last: Mapping[str, Any] = self.steps[-1] if self.steps else {}
        best = self._best()
        return {
            "state": self.state, "model": self.model or None, "unit": self.note.get("unit"), "step": last.get("step"),
            "steps": self.note.get("steps"), "progress": significant(self.progress), "seconds": last.get("seconds"),
            "seconds_left": None if self.left is None else significant(self.left), "loss": last.get("loss"),
            "learning_rate": last.get("learning_rate"), "per_second": significant(self.speed) if self.steps else None,
            "validation_loss": self._validations()[-1]["validation_loss"] if best else None,
            "best_validation_loss": best["validation_loss"] if best else None, "best_step": best["step"] if best else None,
        }

    def _validations(self) -> list[Mapping[str, float]]:
        return [line for line in self.history if "validation_loss" in line]

    def _best(self) -> Mapping[str, float] | None:
        return min(self._validations(), key=lambda line: line["validation_loss"], default=None)

    def lines(self, name: str, width: int) -> list[str]:
        """A frame of at most ``width`` characters a line."""
        if self.state == "none":
            return [f"{name}: nothing was trained yet; 'treadle run' does"]
        ended = {"stopped": "was stopped; 'treadle run' goes on with it", "done": "is the last one trained"}
        made = [f"{name}: {self.model} {ended.get(self.state, 'is being trained')}"]
        if self.state == "done":
            made += [f"  {fact}" for fact in self.facts]
        else:
            made += [self._bar(width)]
        if self.steps:
            loss = [(line["tokens"], line["loss"]) for line in self.steps]
            seen = [(line["tokens"], line["validation_loss"]) for line in self._validations()]
            unit = str(self.note.get("unit", "tokens"))
            legend = f"loss in training, its running mean{f'; {MARK} validation' if seen else ''}; by {unit}"
            made += ["", legend, *text_chart(loss, seen, width, _HEIGHT, format_count)]
        if self.steps and self.state != "done":
            made += ["", *self._figures()]
        return [line[:width] for line in made]

    def _bar(self, width: int) -> str:
        last = self.steps[-1] if self.steps else {"step": 0, "seconds": 0.0}
        whole = f" of {self.note['steps']}" if self.note.get("steps") else f", budget {self.note.get('budget')}"
        parts = [f"{self.progress:.0%}", f"step {last['step']}{whole}", f"{format_duration(last['seconds'])} so far"]
        parts += [f"{format_duration(self.left)} left"] if self.left is not None else []
        text = ", ".join(parts)
        wide = max(8, min(30, width - len(text) - 2))
        full = round(self.progress * wide)
        return f"{'━' * full}{'─' * (wide - full)}  {text}"

    def _figures(self) -> list[str]:
        last, best = self.steps[-1], self._best()
        line = f"loss {last['loss']:.4g}"
        if best:
            line += f", validation {self._validations()[-1]['validation_loss']:.4g}"
            line += f", the lowest {best['validation_loss']:.4g} at step {best['step']}"
        speed = f"{format_count(significant(self.speed, 3))} {self.note.get('unit', 'tokens')}/s"
        if self.note.get("peak"):
            speed += f" ({self.speed * self.note['flops'] / self.note['peak']:.0%} of the matrix peak)"
        return [line, f"{speed}, rate {last['learning_rate']:.3g}, gradient norm {last['gradient_norm']:.3g}"]


class Watcher:
    """Looks again and again at the store at ``root``; of a history it reads only what is new."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._source: tuple[Path, str] | None = None
        self._read, self._history = 0, list[Mapping[str, float]]()

    def look(self) -> Seen:
        """What is going on: the training that was begun last, or else the last thing that one can say."""
        notes = read_notes(self.root)
        alive = [pair for pair in notes if is_alive(pair[1])]
        if alive:
            workspace, note = alive[-1]
            return Seen("running", note["model"], note, self._lines(workspace, note["started"]))
        made = [manifest for manifest in Store(self.root).all() if manifest["kind"] == "model"][-1:]
        if notes and (not made or str(notes[-1][1]["started"]) > str(made[-1]["created"])):
            workspace, note = notes[-1]
            return Seen("stopped", note["model"], note, self._lines(workspace, note["started"]))
        if not made:
            return Seen("none")
        model = made[-1]
        history = self._lines(Store(self.root).folder(model["id"]), model["created"])
        return Seen("done", model["id"], model["counts"], history, artifact_facts(model))

    def _lines(self, folder: Path, since: str) -> list[Mapping[str, float]]:
        """The whole lines of the history in ``folder``. Where a process went on with it ``since`` the last look, it was cut back to
        the checkpoint, and is read anew."""
        if (folder, since) != self._source:
            self._source, self._read, self._history = (folder, since), 0, []
        try:
            with (folder / "history.jsonl").open("rb") as stream:
                stream.seek(self._read)
                text = stream.read()
        except OSError:
            return self._history
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and "step" in found and "tokens" in found:
                self._history.append(found)
        return self._history


def follow(root: Path, name: str) -> Seen:
    """Draw frames in the terminal until the training ends or Ctrl-C is pressed, which leaves the training alone."""
    watcher, console = Watcher(root), Console(highlight=False)
    seen = watcher.look()
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(drawn(seen.lines(name, frame_width())), refresh=True)
                if seen.state != "running":
                    break
                time.sleep(_EVERY)
                seen = watcher.look()
        except KeyboardInterrupt:
            pass
    return seen


def frame_width() -> int:
    return max(40, min(_WIDEST, shutil.get_terminal_size().columns))


def drawn(lines: Sequence[str]) -> Text:
    """A frame in colours."""
    text = Text("\n".join(lines), no_wrap=True)
    for pattern, style in _STYLES:
        text.highlight_regex(pattern, style)
    return text


def after(seen: Seen) -> list[str]:
    """What to do next."""
    if seen.state == "running":
        return ["the training goes on; 'treadle watch' looks at it again"]
    return ["'treadle report' tells more"] if seen.state == "done" else []


def _change(steps: Sequence[Mapping[str, float]], key: str) -> float:
    """How fast ``key`` grows a second, over these steps."""
    if len(steps) < 2 or steps[-1]["seconds"] <= steps[0]["seconds"]:
        return 0.0
    return (steps[-1][key] - steps[0][key]) / (steps[-1]["seconds"] - steps[0]["seconds"])
