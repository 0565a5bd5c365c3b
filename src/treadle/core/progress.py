"""Progress of long work on standard error: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from treadle.spec.units import format_count, format_duration

console = Console(stderr=True, highlight=False)
_PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


_sayers: list[Callable[[str], None]] = []


def said_by(speak: Callable[[str], None]) -> Callable[[], None]:
    """From now on ``say`` calls ``speak``, until what is given back is called."""
    _sayers.append(speak)
    return lambda: _sayers.remove(speak) if speak in _sayers else None


def say(text: str) -> None:
    """One line for the person who waits; never on standard output, which belongs to results."""
    if _sayers:
        _sayers[-1](text)
        return
    console.print(text, markup=False, soft_wrap=True)


class Task:
    """A piece of work with a known total; ``advance`` says what was done. Set ``done`` first to what an earlier process did."""

    def __init__(self, name: str, total: float, unit: str, bar: Progress | None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0.0
        self._bar = bar
        self._id = bar.add_task(name, total=total, note="") if bar else None
        self._start = self._said = time.monotonic()
        self._first: float | None = None

    def advance(self, amount: float, note: str = "") -> None:
        """``amount`` more is done. The rate counts from the first report of this process, so a resumed run shows its own."""
        self.at(self.done + amount, note)

    def at(self, done: float, note: str = "") -> None:
        """``done`` of ``total`` is done."""
        if self._first is None:
            self._first = self.done
        self.done = done
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - done) / rate if rate > 0 else 0.0
        what = f"{format_count(round(rate))} {self.unit}/s" if self.unit else ""
        text = ", ".join(part for part in (what, f"{format_duration(max(left, 0))} left", note) if part)
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, note=text)
        elif now - self._said >= _PLAIN_EVERY:
            self._said = now
            say(f"{self.name}: {min(1.0, done / self.total):.0%}, {text}")


@contextmanager
def task(name: str, total: float, unit: str = "") -> Iterator[Task]:
    """``with task("training", total=steps, unit="steps") as work: work.advance(1, "loss 2.31")``."""
    if not console.is_terminal or not sys.stderr.isatty():
        yield Task(name, max(total, 1e-9), unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True) as bar:
        yield Task(name, max(total, 1e-9), unit, bar)
