"""A ledger as Treadle 0.2 made it: keys without scopes, an audit trail without hashes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import sqlalchemy as sa

SECRET = "tk-of-an-earlier-treadle"
AT = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)


def make_earlier(url: str) -> None:
    """Write the tables, with two keys (``alice`` live, ``bob`` revoked) and three entries of the trail."""
    engine = sa.create_engine(url)
    postgres = engine.dialect.name == "postgresql"
    stamp, serial = ("TIMESTAMP WITH TIME ZONE", "SERIAL") if postgres else ("DATETIME", "INTEGER")
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE keys (name VARCHAR(80) NOT NULL, sha256 VARCHAR(64) NOT NULL, at {stamp} NOT NULL, revoked {stamp}, "
            "PRIMARY KEY (name))"
        )
        connection.exec_driver_sql(
            f"CREATE TABLE audit (id {serial} NOT NULL, at {stamp} NOT NULL, action VARCHAR(40) NOT NULL, detail JSON NOT NULL, "
            "PRIMARY KEY (id))"
        )
        at = sa.DateTime(timezone=True)
        keys = sa.table("keys", sa.column("name"), sa.column("sha256"), sa.column("at", at), sa.column("revoked", at))
        audit = sa.table("audit", sa.column("at", at), sa.column("action"), sa.column("detail", sa.JSON))
        connection.execute(keys.insert(), [
            {"name": "alice", "sha256": digest, "at": AT, "revoked": None},
            {"name": "bob", "sha256": "0" * 64, "at": AT, "revoked": AT},
        ])
        connection.execute(audit.insert(), [
            {"at": AT, "action": action, "detail": detail}
            for action, detail in (("add key", {"name": "alice"}), ("add key", {"name": "bob"}), ("revoke key", {"name": "bob"}))
        ])
    engine.dispose()
