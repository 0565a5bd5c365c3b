"""The ledger's tables."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


class _Stamp(sa.types.TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone, so it is put back on reading; PostgreSQL gives the zone that it is set to."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, _: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Text(sa.types.TypeDecorator[str]):
    """Text of users. What no database's text can hold (NUL, lone surrogates) becomes U+FFFD, so that the rest is kept."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Any) -> str | None:
        return None if value is None else re.sub("[\x00\ud800-\udfff]", "\ufffd", value)


metadata = sa.MetaData()
_stamp = _Stamp()

artifacts = sa.Table(
    "artifacts", metadata,
    sa.Column("id", sa.String(80), primary_key=True), sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("at", _stamp, nullable=False), sa.Column("counts", sa.JSON, nullable=False),
)
lineage = sa.Table(
    "lineage", metadata,
    sa.Column("child", sa.String(80), sa.ForeignKey("artifacts.id"), primary_key=True),
    sa.Column("parent", sa.String(80), primary_key=True), sa.Column("position", sa.Integer, nullable=False),
)
runs = sa.Table(
    "runs", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("word", sa.String(20), nullable=False),
    sa.Column("started", _stamp, nullable=False), sa.Column("ended", _stamp), sa.Column("outcome", sa.String(20)),
    sa.Column("detail", sa.JSON),
)
deployments = sa.Table(
    "deployments", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("version", sa.Integer, nullable=False),
    sa.Column("package", sa.String(80), nullable=False), sa.Column("action", sa.String(20), nullable=False),
    sa.Column("reason", _Text, nullable=False), sa.Column("at", _stamp, nullable=False),
)
answers = sa.Table(
    "answers", metadata,
    sa.Column("id", sa.String(80), primary_key=True), sa.Column("at", _stamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False), sa.Column("package", sa.String(80), nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False), sa.Column("prompt", _Text), sa.Column("text", _Text),
    sa.Column("settings", sa.JSON, nullable=False), sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("answer_tokens", sa.Integer, nullable=False), sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finish_reason", sa.String(20), nullable=False),
    sa.Column("rollout", sa.Integer),  # under which it was drawn who answers; null: none, or the version was asked for by number
)
rollouts = sa.Table(  # a row for each start and change of a rollout, and for its end; the newest one holds. See rollouts.py
    "rollouts", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("version", sa.Integer, nullable=False),
    sa.Column("package", sa.String(80), nullable=False), sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("share", sa.Float, nullable=False), sa.Column("alpha", sa.Float, nullable=False),
    sa.Column("reason", _Text, nullable=False), sa.Column("at", _stamp, nullable=False),
)
shadows = sa.Table(  # no answers: no user has seen one
    "shadows", metadata,
    sa.Column("id", sa.String(80), primary_key=True), sa.Column("at", _stamp, nullable=False),
    sa.Column("answer", sa.String(80), nullable=False), sa.Column("rollout", sa.Integer, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False), sa.Column("package", sa.String(80), nullable=False),
    sa.Column("text", _Text), sa.Column("agreement", sa.Float, nullable=False), sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("live_seconds", sa.Float, nullable=False), sa.Column("finish_reason", sa.String(20), nullable=False),
)
feedback = sa.Table(
    "feedback", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("answer", sa.ForeignKey("answers.id"), nullable=False, index=True),
    sa.Column("at", _stamp, nullable=False), sa.Column("rating", sa.String(10)), sa.Column("edited", _Text),
    sa.Column("key", sa.String(80)),  # the name of the key that it came by; null: none, or said under an earlier Treadle
)
keys = sa.Table(
    "keys", metadata,
    sa.Column("name", sa.String(80), primary_key=True), sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("at", _stamp, nullable=False), sa.Column("revoked", _stamp),
    # Null in keys of an earlier Treadle: all scopes, no end, the limits of 'serve.limits'.
    sa.Column("scopes", sa.String(80)), sa.Column("expires", _stamp), sa.Column("limits", sa.JSON),
)
uses = sa.Table(  # a sum per key and day, not a row per request: nothing says who asked what
    "uses", metadata,
    sa.Column("key", sa.String(80), sa.ForeignKey("keys.name"), primary_key=True), sa.Column("day", sa.Date, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False), sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("predictions", sa.BigInteger, nullable=False),
)
audit = sa.Table(
    "audit", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", _stamp, nullable=False),
    sa.Column("action", sa.String(40), nullable=False), sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("previous", sa.String(64)), sa.Column("hash", sa.String(64)),  # see trail.py, which alone writes here
)


def random_id(prefix: str) -> str:
    """A new id, which no one can guess (96 random bits behind the time, in ms), and which a database files beside the newest ones:
    where ids are random from their first digit, every row changes another page of the index (RFC 9562, 2.1)."""
    return f"{prefix}-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(12)}"


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def as_json(value: Any) -> str:
    """JSON as servers accept it: what is not finite becomes null."""

    def finite(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {str(key): finite(item) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(item) for item in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), allow_nan=False)
