"""Every error that Treadle raises on purpose.

    TreadleError                what is wrong, where, and the cure
      UserError                 exit code 2: the user's input is wrong
        SpecError               treadle.yaml: all problems of the file at once
        SourceError             the data that it names is missing or empty
        RequestError            an API request: carries the HTTP status
      WorkError                 exit code 1: the work failed
        ArtifactError           truncated, tampered with, or of another kind
        GateRefused             measured, and not good enough
        Interrupted             exit code 75: stopped from outside; what was done is kept, the same command goes on

The command line prints ``str(error)`` and exits with ``error.exit_code``; a traceback is for defects only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TreadleError(Exception):
    """The base: ``message`` says what is wrong and where, ``cure`` what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.figures: Mapping[str, Any] = {}
        """What was measured before it failed."""

    def __str__(self) -> str:
        return f"{self.message}\n  cure: {self.cure}" if self.cure else self.message


class UserError(TreadleError):
    exit_code = 2


class SourceError(UserError):
    pass


class RequestError(UserError):
    """A request that cannot be answered: ``status`` is the HTTP status, ``field`` the field at fault or None."""

    def __init__(self, message: str, *, status: int = 400, field: str | None = None, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.status = status
        self.field = field


class WorkError(TreadleError):
    exit_code = 1


class ArtifactError(WorkError):
    pass


class GateRefused(WorkError):
    pass


class Interrupted(WorkError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
