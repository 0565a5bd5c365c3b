"""``GET /v1/status``: how the server does, in figures, for a console and for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread

from treadle.core.project import Project
from treadle.serve.live import LiveModel
from treadle.serve.recent import WINDOW
from treadle.serve.watch import Watch
from treadle.serve.writer import Writer
from treadle.store.ledger import Ledger, Said

_FRESH = 5.0  # seconds that figures of the ledger are taken as they were: they are sums over all answers


class Status:
    """Of one server. What it counts itself begins when it was started, feedback is that of the whole ledger."""

    def __init__(self, project: Project, ledger: Ledger, live: LiveModel, watch: Watch) -> None:
        self._project, self._ledger, self._live, self._watch = project, ledger, live, watch
        self._said: tuple[float, dict[int, Said]] | None = None

    async def now(self) -> dict[str, Any]:
        """The figures; docs/watch.md says what each is. Raises ``WorkError`` where the ledger cannot be read."""
        if self._said is None or time.monotonic() - self._said[0] > _FRESH:
            self._said = time.monotonic(), await anyio.to_thread.run_sync(self._ledger.said)
        said = self._said[1]
        monitor, live = self._watch.monitor, self._live
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"), "uptime": round(time.monotonic() - monitor.began, 3),
            "model": self._project.spec.name, "version": live.version.number, "draining": live.draining, "stalled": live.stalled,
            "load": self._load(), "latency": {name: times.percentiles() for name, times in monitor.recent.items()},
            "requests": dict(monitor.outcomes), "versions": self._versions(said), "keys": self._keys(), "cost": self._cost(),
            "feedback": _feedback(said), "cache": dict(monitor.cache) if isinstance(live.worker, Writer) else None,
            "drift": self._watch.drift.told(), "alerts": [event.as_dict() for event in list(self._watch.alerts.events)],
        }

    def _load(self) -> dict[str, Any]:
        settings, tally = self._project.spec.serve, self._watch.monitor.tally
        active, waiting = self._live.load
        asked = tally.of("ok", "client_errors", "server_errors", "refused", seconds=60)
        return {
            "active": active, "waiting": waiting, "slots": settings.slots, "queue": settings.queue,
            "requests_per_minute": asked, "tokens_per_minute": tally.of("tokens", seconds=60),
        }

    def _versions(self, said: Mapping[int, Said]) -> list[dict[str, Any]]:
        """Those at work, and those that answered of late, the newest first."""
        roles = {role["version"]: role for role in reversed(self._live.roles())}  # the live one wins where a version has two
        uses = self._watch.monitor.versions
        found = {number: use.package for number, use in uses.items()} | {number: role["package"] for number, role in roles.items()}
        rows = []
        for number in sorted(found, reverse=True):
            use, row = uses.get(number), said.get(number, Said())
            rows.append({
                "version": number, "package": found[number], "role": roles[number]["role"] if number in roles else "retired",
                "share": roles[number]["share"] if number in roles else 0.0,
                "requests": use.requests if use else 0, "tokens": use.tokens if use else 0,
                "total": use.total.percentiles() if use else None,
                "feedback": {"up": row.up, "down": row.down, "edited": row.edited},
            })
        return rows

    def _keys(self) -> list[dict[str, Any]]:
        return [
            {"key": name, "requests": use.requests, "tokens": use.tokens, "predictions": use.predictions,
             "money": round(use.money, 6)}
            for name, use in sorted(self._watch.monitor.keys.items())
        ]

    def _cost(self) -> dict[str, Any]:
        """Of the machine, spread over what is answered: it costs as much when no one asks."""
        plan, monitor = self._project.spec.plan, self._watch.monitor
        _, hour = plan.cost(3600)
        seconds = min(WINDOW, max(1.0, time.monotonic() - monitor.began))
        answered = monitor.tally.of("ok")
        how = f"{hour:.4g} {plan.currency} an hour (plan.price, and plan.power at plan.energy_price)"
        if not answered:
            return {"currency": plan.currency, "per_1000_requests": None, "how": f"{how}; no request was answered of late"}
        rate = answered / seconds * 3600
        how = f"{how}, over {rate:.4g} answered requests an hour, the rate of the last {seconds / 60:.2g} minutes"
        return {"currency": plan.currency, "per_1000_requests": round(hour / rate * 1000, 6), "how": how}


def _feedback(said: Mapping[int, Said]) -> dict[str, Any]:
    answers, rated = (sum(getattr(row, name) for row in said.values()) for name in ("answers", "rated"))
    return {"answers": answers, "feedback": rated, "rate": round(rated / answers, 6) if answers else 0.0}
