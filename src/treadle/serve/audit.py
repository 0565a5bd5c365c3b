"""What the server adds to the audit trail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from treadle.core.errors import WorkError
from treadle.store.ledger import Ledger

_log = logging.getLogger("treadle.serve")


def note(ledger: Ledger, action: str, detail: Mapping[str, Any]) -> None:
    """Add an entry. Where it cannot be written (a full disk) the log says so, and serving goes on. Blocks."""
    try:
        ledger.note(action, detail)
    except WorkError as error:
        _log.error("the audit trail lacks an entry, %s %s: %s", action, dict(detail), error)
