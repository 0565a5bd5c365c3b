"""The log as lines of JSON: one for each request, and one for each thing that the server has to say."""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from treadle.core.progress import said_by
from treadle.serve.asked import Asked, asked

_LOGGERS = ("treadle.serve", "uvicorn")
_lock = threading.Lock()


class Journal(logging.Handler):
    """Takes the place of the words on standard error, from its making to ``close``."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)
        self._unsay = said_by(lambda text: _write("info", {"message": text}))

    def ended(self, one: Asked) -> None:
        """A request's line."""
        _write("info", {"message": "request", **one.told()})

    def emit(self, record: logging.LogRecord) -> None:
        found: dict[str, Any] = {"message": record.getMessage(), "logger": record.name}
        if one := asked():
            found["request"] = one.id
        if record.exc_info and record.exc_info[0]:
            kind, _, trace = record.exc_info
            # Where it happened, not what the error says: values of a request may stand in that.
            found["error"] = kind.__name__
            found["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)[-8:]]
        _write(record.levelname.lower(), found)

    def close(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
        self._unsay()
        super().close()


def _write(level: str, found: Mapping[str, Any]) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": at, "level": level, **found}, ensure_ascii=False, default=str)
    with _lock:  # whole lines, whoever else writes one
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
