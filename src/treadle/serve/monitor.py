"""What the server counts, for Prometheus. No prompt, answer or key is ever a label, only names of keys."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Monitor:
    """The figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"treadle_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"treadle_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"treadle_{name}", text, registry=self.registry, buckets=_SECONDS)

        self.requests = counter("requests", "Requests by route and HTTP status", "route", "status")
        self.answers = counter("answers", "Answers by how they ended", "finish_reason")
        self.tokens = counter("tokens", "Tokens read (prompt) and written (answer)", "direction")
        self.feedback = counter("feedback", "What users said of answers", "kind")
        self.feedback_keys = counter("feedback_by_key", "Pieces of feedback by the name of the key; none: empty", "key")
        self.feedback_refused = counter("feedback_refused", "Feedback that came faster than it is taken, by what was full", "limit")
        self.feedback_aside = gauge("feedback_set_aside", "Feedback that the newest round of improvement did not use", "reason")
        self.unrecorded = counter("unrecorded_answers", "Answers that could not be written to the ledger")
        self.lockouts = counter("lockouts", "Addresses locked out after wrong keys")
        self.first_token = histogram("first_token_seconds", "From the request to its first token")
        self.total = histogram("answer_seconds", "From the request to the end of its answer")
        self.active = gauge("active_slots", "Answers being written")
        self.queue = gauge("queue_length", "Requests that wait for a slot")
        self.version = gauge("live_version", "Version that answers new requests")
        self.swaps = counter("swaps", "Changes of the live version, by outcome", "outcome")
        self.shadows = counter("shadow_answers", "Answers of a candidate that no user sees, by what became of them", "outcome")
        self.swap_failed = gauge("swap_failed", "1 while the version that should be live cannot be loaded")

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)


class CountRequests:
    """ASGI middleware: counts every request by its route (not its path, which anyone can make up) and status."""

    def __init__(self, app: ASGIApp, monitor: Monitor) -> None:
        self.app, self.monitor = app, monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        status = 500  # what the outermost handler answers where nothing inside did

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.monitor.requests.labels(getattr(scope.get("route"), "path", "other"), str(status)).inc()
