"""What was found out once for a project and holds from then on: a JSON file of the store, by all that a finding follows from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from treadle.store.artifacts import disk_errors, write_json

SETTLED = "settled.json"
"""Of a store: what was counted, measured or chosen before a run, and holds for every run of the same."""


class Kept:
    """``file`` maps hashes to findings (JSON values), no more than ``most``. One that cannot be read holds nothing."""

    def __init__(self, file: Path, most: int | None = None) -> None:
        self.file, self.most = file, most

    def find(self, follows_from: Any) -> dict[str, Any] | None:
        """What was kept under ``follows_from`` (JSON values)."""
        found = self._entries().get(_key(follows_from))
        return found if isinstance(found, dict) else None

    def keep(self, follows_from: Any, found: dict[str, Any]) -> None:
        """Keep ``found`` from now on."""
        with disk_errors(self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            others = [(key, value) for key, value in self._entries().items() if key != _key(follows_from)]
            kept = others if self.most is None else others[max(0, len(others) + 1 - self.most) :]
            write_json(self.file, {**dict(kept), _key(follows_from): found})

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _key(follows_from: Any) -> str:
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:16]
