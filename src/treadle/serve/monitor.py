"""What the server counts: for Prometheus, and of late for its status. No prompt, answer or secret is ever a label."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from treadle.serve.asked import NO_KEY, Asked, Predicted, Written, asked
from treadle.serve.recent import Tally, Times
from treadle.serve.version import Version
from treadle.spec.access import Price

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PER_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
KEYS, VERSIONS = 50, 8
"""Names of keys, and versions, that have figures of their own: those that asked or answered last. Others' are forgotten."""

Kind = Counter | Histogram


@dataclass
class Use:
    """What a key has asked, or a version answered, since the server began."""

    requests: int = 0
    tokens: int = 0
    predictions: int = 0
    money: float = 0.0
    package: str = ""
    total: Times = field(default_factory=Times)


class Monitor:
    """The figures of one server, in a registry of their own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.price = Price()
        self.began = time.monotonic()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"treadle_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"treadle_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"treadle_{name}", text, ("key", "version"), registry=self.registry, buckets=buckets)

        by = ("key", "version")
        self.requests = counter("requests", "Requests by route and HTTP status", "route", "status", *by)
        self.errors = counter("errors", "Requests that failed: by client, server, or refused (429, 504)", "kind", *by)
        self.answers = counter("answers", "Answers by how they ended", "finish_reason", *by)
        self.tokens = counter("tokens", "Tokens read (prompt), of these in the cache (known), written (answer)", "direction", *by)
        self.predictions = counter("predictions", "Records that were answered about", *by)
        self.money = counter("money", "What answers cost by serve.price, in plan.currency", *by)
        self.feedback = counter("feedback", "What users said of answers", "kind")
        self.feedback_keys = counter("feedback_by_key", "Pieces of feedback by the name of the key; none: empty", "key")
        self.feedback_refused = counter("feedback_refused", "Feedback that came faster than it is taken, by what was full", "limit")
        self.feedback_aside = gauge("feedback_set_aside", "Feedback that the newest round of improvement did not use", "reason")
        self.unrecorded = counter("unrecorded_answers", "Answers that could not be written to the ledger")
        self.lockouts = counter("lockouts", "Addresses locked out after wrong keys")
        self.queued = histogram("queue_seconds", "From the request to its slot or its batch")
        self.first_token = histogram("first_token_seconds", "From the request to its first token")
        self.per_token = histogram("token_seconds", "For each token of an answer behind the first", _PER_TOKEN)
        self.total = histogram("answer_seconds", "From the request to the end of its answer")
        self.active = gauge("active_slots", "Answers being written")
        self.queue = gauge("queue_length", "Requests that wait for a slot")
        self.version = gauge("live_version", "Version that answers new requests")
        self.swaps = counter("swaps", "Changes of the live version, by outcome", "outcome")
        self.shadows = counter("shadow_answers", "Answers of a candidate that no user sees, by what became of them", "outcome")
        self.swap_failed = gauge("swap_failed", "1 while the version that should be live cannot be loaded")
        self.drift = gauge("drift", "How much what is asked (input) or answered (output) differs from training", "what", "name")
        self.drift_level = gauge("drift_level", "0: no drift beyond chance, 1: some, 2: much", "what", "name")
        self.drift_watched = gauge("drift_watched", "1 where the live version's package says what is usual")
        self.alerts = gauge("alerts", "Alerts that hold now")

        self.recent = {name: Times(clock) for name in ("first_token", "per_token", "total", "queue")}
        self.tally = Tally(clock)
        self.lost = 0
        """Answers that could not be written to the ledger."""
        self.outcomes = {"ok": 0, "client_errors": 0, "server_errors": 0, "refused": 0}
        self.cache = {"hits": 0, "asked": 0}
        self.keys: OrderedDict[str, Use] = OrderedDict()
        self.versions: OrderedDict[int, Use] = OrderedDict()
        self._children: dict[tuple[Kind, tuple[str, ...]], Any] = {}

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def not_recorded(self) -> None:
        """Count an answer, or answers to one request, that could not be written to the ledger."""
        self.unrecorded.inc()
        self.lost += 1

    # -- what is counted by key and version ---------------------------------------------------------------------------

    def wrote(self, one: Written) -> None:
        """Count an answer of a language model, for the request at hand."""
        key, by = self._by(one.version)
        self._of(self.answers, one.finish_reason, *by).inc()
        for direction, amount in (("prompt", len(one.prompt)), ("known", one.known), ("answer", one.tokens)):
            self._of(self.tokens, direction, *by).inc(amount)
        self.cache["hits"] += one.known
        self.cache["asked"] += len(one.prompt)
        until = {"queue": one.begun, "first_token": one.first, "total": one.ended}
        seconds = {name: None if at is None else at - one.started for name, at in until.items()}
        self._observe(seconds | {"per_token": one.per_token}, by, one.version)
        self._spent(key, one.version, len(one.prompt) + one.tokens, 0)

    def put_out(self, version: Version) -> None:
        """Count an answer whose place in line another took."""
        _, by = self._by(version)
        self._of(self.answers, "refused", *by).inc()

    def predicted(self, one: Predicted) -> None:
        """Count answers about records, for the request at hand."""
        key, by = self._by(one.version)
        self._of(self.answers, "stop", *by).inc(len(one.rows))
        self._of(self.predictions, *by).inc(len(one.rows))
        waited = None if one.begun is None else one.begun - one.started
        self._observe({"queue": waited, "total": one.ended - one.started}, by, one.version)
        self._spent(key, one.version, 0, len(one.rows))

    def ended(self, one: Asked) -> None:
        """Count a request that is over."""
        _, by = self._by(one.version)
        self._of(self.requests, one.route, str(one.status), *by).inc()
        kind = outcome(one.status)
        if kind != "ok":
            self._of(self.errors, {"client_errors": "client", "server_errors": "server"}.get(kind, kind), *by).inc()
        if one.method == "POST":  # who looks at figures and pages is no load
            self.outcomes[kind] += 1
            self.tally.add(kind)
            self._use(self.keys, one.key, KEYS).requests += 1
            if one.version is not None:
                self._use(self.versions, one.version.number, VERSIONS).requests += 1

    def _by(self, version: Version | None) -> tuple[str, tuple[str, str]]:
        """Whose the request at hand is, and the labels of what is counted for it."""
        one = asked()
        key = one.key if one else NO_KEY
        self._use(self.keys, key, KEYS)
        if version is not None:
            self._use(self.versions, version.number, VERSIONS).package = version.package
        return key, (key, str(version.number) if version else "none")

    def _of(self, kind: Any, *labels: str) -> Any:
        found = self._children.get((kind, labels))
        if found is None:
            found = self._children[kind, labels] = kind.labels(*labels)
        return found

    def _observe(self, seconds: dict[str, float | None], by: tuple[str, str], version: Version) -> None:
        kinds = {"queue": self.queued, "first_token": self.first_token, "per_token": self.per_token, "total": self.total}
        for name, value in seconds.items():
            if value is not None:
                self._of(kinds[name], *by).observe(value)
                self.recent[name].add(value)
        if (total := seconds["total"]) is not None:
            self.versions[version.number].total.add(total)

    def _spent(self, key: str, version: Version, tokens: int, predictions: int) -> None:
        money = self.price.cost(tokens, predictions)
        self._of(self.money, key, str(version.number)).inc(money)
        self.tally.add("tokens", tokens)
        for use in (self.keys[key], self.versions[version.number]):
            use.tokens, use.predictions, use.money = use.tokens + tokens, use.predictions + predictions, use.money + money

    def _use(self, uses: OrderedDict[Any, Use], name: Any, most: int) -> Use:
        """What ``name`` has used. Where that is one name too many, the one that was longest silent is forgotten."""
        found = uses.get(name)
        if found is None:
            found = uses[name] = Use()
        uses.move_to_end(name)
        if len(uses) > most:
            gone, _ = uses.popitem(last=False)
            place = -2 if uses is self.keys else -1
            for kind, labels in [pair for pair in self._children if pair[1][place] == str(gone)]:
                kind.remove(*labels)
                del self._children[kind, labels]
        return found


def outcome(status: int) -> str:
    """``ok``, ``refused`` (429, and 504 where the client's time was over), ``client_errors`` or ``server_errors``."""
    if status in (429, 504):
        return "refused"
    return "ok" if status < 400 else "client_errors" if status < 500 else "server_errors"
