"""``serve.alerts``: what the server tells of by itself, and to whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from treadle.spec.fields import Count, Duration, Fraction, Section

_Seconds = Annotated[Duration, Field(gt=0)]


def check_url(url: str | None) -> str | None:
    """``url`` where it is one of HTTP, or begins with what the environment is to fill in. Raises ``ValueError``."""
    if url is not None and not url.startswith(("http://", "https://", "$")):
        raise ValueError("a URL begins with http:// or https://; $NAMES in it are filled in from the environment")
    return url


class Alerts(Section):
    """When the server raises an alert. It stands in ``/v1/status`` and the log, and is posted to ``webhook``: when it begins and
    when it is over. That a version cannot be loaded, and that answers cannot be written to the ledger, is always told."""

    webhook: str | None = None
    """URL that alerts are posted to as JSON; ``$NAMES`` in it are filled in from the environment. None: they are sent nowhere."""
    drift: Literal["some", "much", "none"] = "much"
    """How much what is asked or answered must differ from the training data; ``none``: no alert of it."""
    errors: Fraction | None = 0.05
    """Share of the last five minutes' requests that failed by the server's fault (status 500 and above), at least two; None: no
    alert of it."""
    latency: _Seconds | None = None
    """Time (seconds) within which nine of ten answers of the last five minutes, at least ten, must be whole. None: no alert of
    it."""
    refused: Fraction | None = 0.2
    """Share of the last five minutes' requests that were refused with 429 or too late (504), at least ten; None: no alert of it."""
    settle: _Seconds = 60.0
    """How long a condition must have been gone before its alert is over (seconds), so that one at its bound does not flicker."""
    tries: Annotated[Count, Field(ge=1, le=20)] = 6
    """How often one post is tried, each time after twice as long: 1 s, 2 s, 4 s, ..."""

    @field_validator("webhook")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return check_url(value)
