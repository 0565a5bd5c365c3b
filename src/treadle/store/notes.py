"""A note in the workspace of a training, for those who watch it from another process. Imports no torch."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from treadle.core.machine import process_lives, this_process
from treadle.store.artifacts import write_json

FILE = "run.json"


def write_note(workspace: Path, said: Mapping[str, Any]) -> None:
    """Say in ``workspace`` what is trained there, by this process, from now on: the ``model`` to be, and what else is ``said``."""
    at, process = datetime.now(UTC).isoformat(timespec="milliseconds"), [socket.gethostname(), *this_process()]
    write_json(workspace / FILE, {**said, "process": process, "started": at})


def read_notes(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each workspace of the store at ``root`` with a note, trials of a search included, in the order in which they were begun."""
    found = []
    for path in (*root.glob(f"work/model-*/{FILE}"), *root.glob(f"trials/*/work/model-*/{FILE}")):
        try:
            found.append((path.parent, json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):  # just now removed
            continue
    return sorted(found, key=lambda pair: str(pair[1].get("started")))


def is_alive(note: Mapping[str, Any]) -> bool:
    """Whether the process that wrote it still runs; of another machine's nothing is known, and it is taken to."""
    host, number, since = note["process"]
    return host != socket.gethostname() or process_lives(number, since)
