"""What answers: a version, and how it says that it cannot take more."""

from __future__ import annotations

from dataclasses import dataclass

from treadle.core.errors import RequestError


@dataclass(frozen=True)
class Version:
    """What is live: its number, the package's id, and since when (Unix seconds)."""

    number: int
    package: str
    since: int


class Full(RequestError):
    """All slots and the queue are taken; ``retry_after`` seconds from now there may be room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        cure = f"ask again in {retry_after} s; 'serve.slots' and 'serve.queue' set how many"
        super().__init__(f"all slots are taken and {waiting} requests wait", status=429, cure=cure)
        self.retry_after = retry_after


class Retired(Exception):
    """It takes no new work: another version answers now, or the server stops."""
