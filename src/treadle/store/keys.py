"""API keys in the ledger: who has one, what it opens, and until when. Only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from treadle.core.errors import UserError
from treadle.spec.units import parse_duration
from treadle.store.database import Database
from treadle.store.tables import audit, keys, now

SCOPES = ("answer", "feedback", "metrics")
"""What a key can open: asking the model, saying what an answer was worth, reading the server's figures."""


@dataclass(frozen=True)
class Key:
    """One that was not revoked; ``expires`` may have passed."""

    name: str
    scopes: frozenset[str]
    expires: datetime | None
    """None: never."""

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= now()


class Keys(Database):
    """The ledger's keys."""

    def add_key(self, name: str, scopes: Sequence[str] = SCOPES, expires: datetime | None = None) -> str:
        """Make an API key; only its hash is kept. Raises ``UserError`` if the name is taken, also by a revoked key."""
        if not re.fullmatch(r"[\w.@ -]{1,80}", name):
            raise UserError(f"{name!r} cannot name a key", cure="use 1 to 80 letters, digits, '.', '-', '_', '@' or spaces")
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise UserError(f"there is no scope {unknown[0]!r}", cure=f"scopes: {', '.join(SCOPES)}")
        key = f"tk-{secrets.token_urlsafe(32)}"
        opens = [scope for scope in SCOPES if scope in scopes]
        row = {"name": name, "sha256": _hash(key), "at": now(), "scopes": " ".join(opens), "expires": expires}
        detail = {"name": name, "scopes": opens, "expires": expires.isoformat() if expires else None}
        try:
            with self._write() as connection:
                connection.execute(keys.insert(), row)
                connection.execute(audit.insert(), {"at": now(), "action": "add key", "detail": detail})
        except sa.exc.IntegrityError:
            raise UserError(f"there is a key named {name!r} already", cure="choose another name") from None
        return key

    def revoke_key(self, name: str) -> None:
        with self._write() as connection:
            live = (keys.c.name == name) & keys.c.revoked.is_(None)
            if not connection.execute(keys.update().where(live).values(revoked=now())).rowcount:
                raise UserError(f"there is no live key named {name!r}", cure="'treadle key list' shows the names")
            connection.execute(audit.insert(), {"at": now(), "action": "revoke key", "detail": {"name": name}})

    def all_keys(self) -> list[RowMapping]:
        """name, at, revoked, scopes, expires of every key there ever was, oldest first."""
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


def _key(row: RowMapping) -> Key:
    opens = SCOPES if row["scopes"] is None else row["scopes"].split()
    return Key(row["name"], frozenset(opens), row["expires"])


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
