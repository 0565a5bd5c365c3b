"""Whether a candidate fails more often than the live version: then it is taken out, by the same test that names a winner."""

from __future__ import annotations

import threading

from treadle.core.sequential import Pairs, winner
from treadle.store.rollouts import Rollout


class Harm:
    """Failed and whole answers of both sides of one rollout, as this server gave them. Safe to call from any thread."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self._pairs, self._lock = Pairs(), threading.Lock()
        self._failed = {True: 0, False: 0}
        self._count = {True: 0, False: 0}
        self.reason: str | None = None
        """Why the candidate is to be taken out; None: it is not."""

    def ended(self, candidate: bool, whole: bool) -> None:
        """Count an answer. Cancelled ones are not counted."""
        with self._lock:
            self._count[candidate] += 1
            self._failed[candidate] += not whole
            self._pairs.add(candidate, whole)
            if winner(self._pairs.wins, self._pairs.losses, self.rollout.alpha) == "live":
                ours, theirs = (f"{self._failed[side]} of {self._count[side]}" for side in (True, False))
                self.reason = f"it fails more often: {ours} answers failed, of the live version {theirs}"
