"""API keys in the ledger: who has one, what it opens, until when, and what it has asked. Only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping

from treadle.core.errors import UserError
from treadle.spec.access import Limits
from treadle.spec.units import parse_duration
from treadle.store.database import Database
from treadle.store.tables import keys, now, uses
from treadle.store.trail import append

CONSOLE = "console"
USUAL = ("answer", "feedback", "metrics")
"""What a key opens where nothing else is said: asking the model, saying what an answer was worth, reading the server's figures."""
SCOPES = (*USUAL, CONSOLE)
"""What a key can open. The console shows what is stored, and makes keys: it is opened by those alone that name it."""


@dataclass(frozen=True)
class Key:
    """One that was not revoked; ``expires`` may have passed."""

    name: str
    scopes: frozenset[str]
    expires: datetime | None
    """None: never."""
    limits: Mapping[str, float | None]
    """By the names of ``serve.limits``, what holds for this key instead; None: no limit."""

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= now()


@dataclass(frozen=True)
class Use:
    """What was asked and answered: requests, tokens of prompts and answers, records."""

    requests: int = 0
    tokens: int = 0
    predictions: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(self.requests + other.requests, self.tokens + other.tokens, self.predictions + other.predictions)


class Keys(Database):
    """The ledger's keys."""

    def add_key(
        self, name: str, scopes: Sequence[str] = USUAL, expires: datetime | None = None,
        limits: Mapping[str, float | None] | None = None,
    ) -> str:
        """Make an API key; only its hash is kept. Raises ``UserError`` if the name is taken, also by a revoked key."""
        if not re.fullmatch(r"[\w.@ -]{1,80}", name):
            raise UserError(f"{name!r} cannot name a key", cure="use 1 to 80 letters, digits, '.', '-', '_', '@' or spaces")
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise UserError(f"there is no scope {unknown[0]!r}", cure=f"scopes: {', '.join(SCOPES)}")
        key = f"tk-{secrets.token_urlsafe(32)}"
        opens = [scope for scope in SCOPES if scope in scopes]
        own = dict(limits or {})
        row = {"name": name, "sha256": _hash(key), "at": now(), "scopes": " ".join(opens), "expires": expires, "limits": own}
        detail = {"name": name, "scopes": opens, "expires": expires.isoformat() if expires else None, "limits": own}
        try:
            with self._write() as connection:
                connection.execute(keys.insert(), row)
                append(connection, "add key", detail)
        except sa.exc.IntegrityError:
            raise UserError(f"there is a key named {name!r} already", cure="choose another name") from None
        return key

    def revoke_key(self, name: str) -> None:
        with self._write() as connection:
            live = (keys.c.name == name) & keys.c.revoked.is_(None)
            if not connection.execute(keys.update().where(live).values(revoked=now())).rowcount:
                raise UserError(f"there is no live key named {name!r}", cure="'treadle key list' shows the names")
            append(connection, "revoke key", {"name": name})

    def all_keys(self) -> list[RowMapping]:
        """name, at, revoked, scopes, expires, limits of every key there ever was, oldest first."""
        return self._all(sa.select(*(column for column in keys.c if column.name != "sha256")).order_by(keys.c.at))

    def live_keys(self) -> list[Key]:
        """Those that open something now."""
        found = [_key(row) for row in self.all_keys() if row["revoked"] is None]
        return [key for key in found if not key.expired]

    def find_key(self, given: str) -> Key | None:
        """The key whose secret ``given`` is, unless it was revoked. It takes as long whether one matches or none.

        A key has 256 random bits: nothing to guess, so SHA-256 suffices.
        """
        hashed, found = _hash(given), None
        for row in self._all(sa.select(keys).where(keys.c.revoked.is_(None))):
            if hmac.compare_digest(hashed, row["sha256"]):
                found = row
        return None if found is None else _key(found)

    def record_uses(self, added: Mapping[tuple[str, date], Use]) -> dict[tuple[str, date], Use]:
        """Add to what each key had on a day (UTC), all or none, and give the sums, other servers' of the same ledger included."""
        found = {}
        with self._write() as connection:
            for (name, day), use in sorted(added.items()):  # in one order, lest two servers wait for each other
                insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(uses)
                sums = {column: uses.c[column] + insert.excluded[column] for column in vars(use)}
                row = insert.values(key=name, day=day, **vars(use)).on_conflict_do_update(index_elements=["key", "day"], set_=sums)
                told = connection.execute(row.returning(uses.c.requests, uses.c.tokens, uses.c.predictions)).one()
                found[name, day] = Use(*told)
        return found

    def use_on(self, day: date) -> dict[str, Use]:
        """What each key was used for on ``day`` (UTC); keys that were not used are left out."""
        found = self._all(sa.select(uses).where(uses.c.day == day))
        return {row["key"]: Use(row["requests"], row["tokens"], row["predictions"]) for row in found}

    def use_since(self, day: date) -> list[RowMapping]:
        """key, day, requests, tokens, predictions of each key and day (UTC) from ``day`` on, the newest day first."""
        return self._all(sa.select(uses).where(uses.c.day >= day).order_by(uses.c.day.desc(), uses.c.key))

    def list_keys(self) -> list[dict[str, Any]]:
        """``all_keys`` as plain documents, with ``last_used`` (the day, UTC; None: never) and what each had ``today``."""
        newest = sa.select(uses.c.key, sa.func.max(uses.c.day).label("day")).group_by(uses.c.key)
        last, today = {row["key"]: row["day"] for row in self._all(newest)}, self.use_on(now().date())
        return [
            {**row, "scopes": _scopes(row), "limits": row["limits"] or {}, "last_used": last.get(row["name"]),
             "today": vars(today.get(row["name"], Use()))}
            for row in self.all_keys()
        ]


def parse_expiry(text: str) -> datetime:
    """When a key ends: so long from now as ``30 days`` says, or with the day (UTC) that ``2027-01-31`` names.

    Raises ``UserError``.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip()):
            end = datetime.combine(date.fromisoformat(text.strip()) + timedelta(days=1), time(), UTC)
        else:
            end = now() + timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise UserError(f"--expires {text!r} is no moment to come", cure="write '30 days', '12 h', or a date: 2027-01-31") from None
    if end <= now():
        raise UserError(f"--expires {text!r} has passed", cure="give a later date, or a time from now such as '30 days'")
    return end


def parse_limits(given: Sequence[str], *, priced: bool) -> dict[str, float | None]:
    """A key's own limits from ``requests_per_minute=60``, ``money_per_day=none`` and the like. Raises ``UserError``.

    ``priced``: answers have a price, without which money means nothing.
    """
    limits: dict[str, float | None] = {}
    for text in given:
        name, _, value = text.partition("=")
        cure = f"write NAME=NUMBER or NAME=none; limits: {', '.join(Limits.model_fields)}"
        if name not in Limits.model_fields:
            raise UserError(f"--limit {text!r}: there is no such limit", cure=cure)
        try:
            limits[name] = getattr(Limits.model_validate({name: _plain(value)}), name)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"--limit {text!r}: {said}", cure=cure) from None
    if limits.get("money_per_day") is not None and not priced:
        message = "--limit money_per_day counts what answers cost, and they have no price"
        raise UserError(message, cure="set 'serve.price', as in 'serve: {price: {tokens: 0.02}}'")
    return limits


def _plain(value: str) -> float | str | None:
    if value.strip().lower() == "none":
        return None
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, (int, float)) else value


def _scopes(row: RowMapping) -> list[str]:
    return list(SCOPES) if row["scopes"] is None else row["scopes"].split()


def _key(row: RowMapping) -> Key:
    return Key(row["name"], frozenset(_scopes(row)), row["expires"], row["limits"] or {})


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
