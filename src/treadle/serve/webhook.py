"""Alerts on their way to a URL: as JSON, tried again for a while, and never in anyone's way."""

from __future__ import annotations

import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_WAITING = 100  # posts; more are given up
_PATIENCE = 10.0  # seconds for one try
_AGAIN = (408, 425, 429)  # and from 500 on: worth another try
_log = logging.getLogger("treadle.serve")


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: what is posted is for the one that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook:
    """A thread that posts to ``url``, which may hold a secret and is therefore never told."""

    def __init__(self, url: str, tries: int, wait: float = 1.0) -> None:
        """Each is tried ``tries`` times, again after ``wait`` seconds, then after twice as long, and so on."""
        self._url, self._tries, self._wait = url, tries, wait
        self._host = urlsplit(url).hostname or "the webhook"
        self._posts: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._open = urllib.request.build_opener(_Straight).open
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def post(self, body: Mapping[str, Any]) -> None:
        """Have ``body`` posted. Does not wait."""
        try:
            self._posts.put_nowait(json.dumps(body, ensure_ascii=False).encode())
        except queue.Full:
            _log.error("an alert is not posted to %s: %s others wait", self._host, _WAITING)

    def close(self) -> None:
        """Post what waits, each once at most, for up to a few seconds."""
        self._stop.set()
        self._thread.join(_PATIENCE / 4)

    def _work(self) -> None:
        while not (self._stop.is_set() and self._posts.empty()):
            try:
                body = self._posts.get(timeout=0.2)
            except queue.Empty:
                continue
            self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        reason = ""
        for number in range(self._tries):
            if number and self._stop.wait(self._wait * 2 ** (number - 1)):
                break
            reason, again = self._try(body)
            if not reason:
                return
            if not again:
                break
        _log.error("an alert could not be posted to %s: %s", self._host, reason)

    def _try(self, body: bytes) -> tuple[str, bool]:
        """Why it failed, empty where it did not; and whether another try may do."""
        headers = {"content-type": "application/json", "user-agent": "treadle"}
        try:
            with self._open(urllib.request.Request(self._url, body, headers, method="POST"), timeout=_PATIENCE):
                return "", False
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered {error.code}", error.code >= 500 or error.code in _AGAIN
        except (OSError, ValueError) as error:  # of the latter the text may hold the URL
            return type(getattr(error, "reason", error)).__name__, isinstance(error, OSError)
