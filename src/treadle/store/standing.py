"""How a rollout stands: what each side answered, what users said of it, and whether the winner is known."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from treadle.core.sequential import Pairs, Winner, log_evidence, pairs_needed, rate_interval, winner
from treadle.spec.units import format_duration
from treadle.store.ledger import Ledger
from treadle.store.rollouts import Rollout


@dataclass(frozen=True)
class Side:
    """One of the two versions since the rollout's start or last change."""

    role: str
    """``live`` or ``candidate``."""
    version: int
    package: str
    answers: int = 0
    errors: int = 0
    seconds: float | None = None
    """An answer took so long, the mean."""
    good: int = 0
    bad: int = 0
    low: float = 0.0
    high: float = 1.0
    """The share of good ones among those that were rated lies between these at all times with 95% confidence."""

    @property
    def share(self) -> float | None:
        return self.good / (self.good + self.bad) if self.good + self.bad else None


@dataclass(frozen=True)
class Shadowed:
    """What copies of requests showed."""

    answers: int
    """Of the candidate's, which no one saw."""
    agreement: float
    """Mean; 1: all the same."""
    same: int
    """Answers that were the same throughout."""
    seconds: float
    live_seconds: float
    """Medians."""
    errors: int


@dataclass(frozen=True)
class Standing:
    """``rollout`` is None where none is under way; then there is nothing else."""

    live: int
    rollout: Rollout | None = None
    sides: tuple[Side, ...] = ()
    pairs: Pairs = field(default_factory=Pairs)
    winner: Winner | None = None
    more_ratings: int | None = None
    """About how many more are needed until the winner is known; None: no end can be seen."""
    shadowed: Shadowed | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        if self.rollout is None:
            return {"live": self.live, "rollout": None}
        wins, losses = self.pairs.wins, self.pairs.losses
        return {
            "live": self.live, "rollout": asdict(self.rollout) | {"at": self.rollout.at.isoformat()},
            "sides": [asdict(side) | {"share": side.share} for side in self.sides],
            "pairs": {"wins": wins, "losses": losses, "even": self.pairs.even},
            "evidence": {"candidate": _evidence(wins, losses), "live": _evidence(losses, wins)},
            "winner": self.winner, "more_ratings": self.more_ratings,
            "shadowed": asdict(self.shadowed) if self.shadowed else None,
        }

    def lines(self) -> list[str]:
        """For people."""
        rollout = self.rollout
        if rollout is None:
            return [f"version {self.live} is live, and no candidate stands beside it"]
        what = {"canary": "answers", "shadow": "gets copies of", "ab": "answers, against version {live},"}[rollout.kind]
        found = [
            f"{rollout.kind}: version {rollout.version} {what.format(live=self.live)} {rollout.share:.0%} of requests",
            f"  since {rollout.at:%Y-%m-%d %H:%M} UTC: {rollout.reason}",
        ]
        found += [_side_line(side) for side in self.sides if rollout.answers or side.role == "live"]
        if self.shadowed is not None:
            found += _shadow_lines(self.shadowed)
        return found + (self._verdict() if rollout.answers else [])

    def _verdict(self) -> list[str]:
        assert self.rollout is not None
        pairs, candidate = self.pairs, self.rollout.version
        found = [f"  pairs of ratings: {pairs.wins} won by version {candidate}, {pairs.losses} by {self.live}, {pairs.even} even"]
        if self.winner == "candidate":
            return [*found, f"winner known: candidate, version {candidate}", "  to make it live:  treadle rollout promote"]
        if self.winner == "live":
            return [*found, f"winner known: live, version {self.live}", "  to take the candidate out:  treadle rollout stop"]
        more = "how many more ratings are needed cannot be told yet" if self.more_ratings is None else (
            f"about {self.more_ratings} more ratings are needed if they go on like this"
        )
        return [*found, f"winner known: not yet; {more}"]


def standing(ledger: Ledger) -> Standing:
    """How the rollout of ``ledger`` that is under way stands. Raises ``UserError`` where nothing is live."""
    live, rollout = ledger.must_be_live(), ledger.rollout()
    if rollout is None:
        return Standing(int(live["version"]))
    ratings = [
        (int(row["version"]) == rollout.version, good) for row in map(dict, ledger.said_under(rollout.id))
        if int(row["version"]) in (live["version"], rollout.version) and (good := is_good(row)) is not None
    ]
    pairs = Pairs.of(ratings)
    answered = {int(row["version"]): dict(row) for row in ledger.arms(rollout.id)}
    sides = (
        _side("live", int(live["version"]), str(live["package"]), answered, [good for candidate, good in ratings if not candidate]),
        _side("candidate", rollout.version, rollout.package, answered, [good for candidate, good in ratings if candidate]),
    )
    needed = pairs_needed(pairs.wins, pairs.losses, rollout.alpha)
    more = None if needed is None else math.ceil(needed * len(ratings) / (pairs.wins + pairs.losses))
    named = winner(pairs.wins, pairs.losses, rollout.alpha)
    return Standing(int(live["version"]), rollout, sides, pairs, named, more, _shadowed(ledger, rollout.id))


def _side(role: str, version: int, package: str, answered: Mapping[int, Mapping[str, Any]], ratings: Sequence[bool]) -> Side:
    row = answered.get(version, {"answers": 0, "errors": 0, "seconds": None})
    good = sum(ratings)
    low, high = rate_interval(good, len(ratings) - good)
    counts = int(row["answers"]), int(row["errors"]), row["seconds"], good, len(ratings) - good
    return Side(role, version, package, *counts, low, high)


def is_good(row: Mapping[str, Any]) -> bool | None:
    """Whether feedback (``rating``, ``edited``, and the answer's ``text`` and ``settings``) says that an answer was right: thumbs
    up, or an edit that says the same; an edit that says something else is an error, as is thumbs down. None: all was taken back."""
    if row["rating"] == "down":
        return False
    if row["edited"] is not None:
        return _same(row)
    return True if row["rating"] == "up" else None


def _same(row: Mapping[str, Any]) -> bool:
    if row["settings"].get("kind") != "prediction" or row["text"] is None:
        return bool(row["edited"] == row["text"])
    said, given = json.loads(row["edited"]), json.loads(row["text"])
    return all(str(given.get(head)) == str(right) for head, right in said.items())  # a form sends numbers as text


def _shadowed(ledger: Ledger, rollout: int) -> Shadowed | None:
    rows = ledger.shadows_of(rollout)
    if not rows:
        return None
    agreement, failed = [row["agreement"] for row in rows], sum(row["finish_reason"] == "error" for row in rows)
    seconds, live = (statistics.median(row[name] for row in rows) for name in ("seconds", "live_seconds"))
    return Shadowed(len(rows), statistics.fmean(agreement), sum(a == 1 for a in agreement), seconds, live, failed)


def _evidence(wins: int, losses: int) -> float:
    """How many times likelier than by chance; the winner is known from 2 / alpha on."""
    return float(f"{math.exp(min(log_evidence(wins, losses), 700)):.4g}")


def _side_line(side: Side) -> str:
    line = f"  {side.role:9} version {side.version}: {side.answers} answers, {side.errors} failed"
    if side.seconds is not None:
        line += f", {format_duration(side.seconds)} each"
    if side.share is None:
        return f"{line}; none rated"
    return f"{line}; of {side.good + side.bad} rated {side.share:.1%} good (95%: {side.low:.1%} to {side.high:.1%})"


def _shadow_lines(seen: Shadowed) -> list[str]:
    alike = f"{seen.same} ({seen.same / seen.answers:.1%}) say the same, agreement {seen.agreement:.1%} on average"
    times = f"{format_duration(seen.seconds)} each in the middle, the live version's {format_duration(seen.live_seconds)}"
    return [f"  shadow answers: {seen.answers}, {seen.errors} failed; {alike}", f"  they took {times}"]
