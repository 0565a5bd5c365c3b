"""The audit trail: what went live, who was given a key, when it was served. Entries are only ever added, and each holds the hash of
the one before it and of itself, so that none can be changed, left out or put in between without its being seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import WorkError
from treadle.store.tables import as_json, audit, now

FIRST = "0" * 64
"""What stands for the entry before the first."""
_REFUSAL = "entries of the audit trail are only ever added"
_SQLITE = (
    "CREATE TRIGGER IF NOT EXISTS audit_is_not_changed BEFORE UPDATE ON audit "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_is_not_deleted BEFORE DELETE ON audit "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
)
_POSTGRESQL = (
    "CREATE OR REPLACE FUNCTION treadle_audit_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    "DROP TRIGGER IF EXISTS audit_is_only_added_to ON audit",
    "CREATE TRIGGER audit_is_only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION treadle_audit_is_only_added_to()",
)


def append(connection: Connection, action: str, detail: Mapping[str, Any]) -> None:
    """Add an entry at the end. Whoever else wants to waits until this transaction has ended, so the chain has one end."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE"))
    newest = sa.select(audit.c.hash).where(audit.c.hash.is_not(None)).order_by(audit.c.id.desc()).limit(1)
    at, plain, previous = now(), json.loads(as_json(detail)), connection.scalar(newest) or FIRST
    row = {"at": at, "action": action, "detail": plain, "previous": previous, "hash": digest(at, action, plain, previous)}
    connection.execute(audit.insert(), row)


def digest(at: datetime, action: str, detail: Mapping[str, Any], previous: str) -> str:
    """SHA-256 of an entry as canonical JSON: keys sorted, no spaces, ASCII, the moment in UTC to the microsecond."""
    entry = {"at": at.astimezone(UTC).isoformat(timespec="microseconds"), "action": action, "detail": detail, "previous": previous}
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def protect(connection: Connection) -> None:
    """Let the database itself refuse to change or delete an entry."""
    for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
        connection.exec_driver_sql(statement)


def seal(connection: Connection) -> None:
    """Chain the entries of an earlier Treadle, which have no hashes, and say so in an entry of their own."""
    previous = FIRST
    rows = connection.execute(sa.select(audit).order_by(audit.c.id)).mappings().all()
    for row in rows:
        found = digest(row["at"], row["action"], row["detail"], previous)
        connection.execute(audit.update().where(audit.c.id == row["id"]).values(previous=previous, hash=found))
        previous = found
    if rows:
        note = "the entries before this one were written without hashes; whether they were changed before now cannot be told"
        append(connection, "seal", {"entries": len(rows), "note": note})


def check(rows: Iterable[RowMapping]) -> tuple[int, str]:
    """How many entries there are, and the hash of the last. Raises ``WorkError`` for the first that is wrong."""
    count, previous, before = 0, FIRST, 0
    for row in rows:
        wrong = None
        if row["hash"] is None:
            wrong = "has no hash: it was not written by this Treadle"
        elif row["hash"] != digest(row["at"], row["action"], row["detail"], row["previous"] or ""):
            wrong = "was changed: its hash is that of something else"
        elif row["previous"] != previous:
            wrong = f"does not follow on entry {before}: one is gone, or was put in" if count else "is not the first: some are gone"
        if wrong:
            which = f"entry {row['id']} ({row['action']}, {row['at']:%Y-%m-%d %H:%M} UTC)"
            cure = "compare with a backup of the ledger; the entries before it are as they were written"
            raise WorkError(f"the audit trail is broken: {which} {wrong}", cure=cure)
        count, previous, before = count + 1, str(row["hash"]), int(row["id"])
    return count, previous
