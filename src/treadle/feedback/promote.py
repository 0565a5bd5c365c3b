"""Whether a version goes live: only if it is measured to be better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Change(Protocol):
    """A difference in a measure of which less is better, such as bits per byte: later minus earlier, with its 95% interval;
    negative is better."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Decision:
    """``promote``, and each condition in words with its figures and whether it holds."""

    promote: bool
    conditions: tuple[tuple[str, bool], ...]

    @property
    def reason(self) -> str:
        """The conditions that failed, or all of them where none did."""
        failed = [text for text, holds in self.conditions if not holds]
        return "; ".join(failed or [text for text, _ in self.conditions])


def decide_improvement(
    feedback: Change, feedback_before: float, old: Change, old_before: float, max_loss: float, measure: str = "bits per byte"
) -> Decision:
    """Better on held-out feedback by more than the interval, and on the old test part no worse than the share ``max_loss``.

    Both conditions ask it of the unfavourable end of the interval.
    """
    gained = f"held-out feedback: {_change(measure, feedback, feedback_before)}; its interval must lie below 0"
    bound = max_loss * old_before
    kept = f"old test part: {_change(measure, old, old_before)}; its interval must end below {bound:+.4f} ({max_loss:.1%})"
    return _decide((gained, feedback.high < 0), (kept, old.high <= bound))


def decide_run(change: Change, before: float, version: int, measure: str = "bits per byte") -> Decision:
    """A newly built version replaces version ``version`` only if it is better on the new test part by more than the interval."""
    text = f"against version {version} on this test part: {_change(measure, change, before)}; its interval must lie below 0"
    return _decide((text, change.high < 0))


def _decide(*conditions: tuple[str, bool]) -> Decision:
    return Decision(all(holds for _, holds in conditions), conditions)


def _change(measure: str, change: Change, before: float) -> str:
    interval = f"95% interval {change.low:+.4f} to {change.high:+.4f}"
    return f"{measure} {before:.4f} to {before + change.value:.4f}, {change.value:+.4f}, {interval}"
