"""The ledger: what was made, what went live, what was answered, what users said. One SQLite file, or PostgreSQL by URL."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import UserError, WorkError
from treadle.store.artifacts import disk_errors
from treadle.store.tables import answers, artifacts, audit, deployments, feedback, keys, lineage, metadata, runs

_PATIENCE = 30.0  # seconds that a writer waits for others
_TABLES_LOCK = 0x7EAD1E  # any number, the same for all who make the tables


class Ledger:
    """Every method is one transaction, safe to call from any thread."""

    def __init__(self, store: Path, url: str | None = None) -> None:
        """Open, and create where missing, ``store/ledger.db`` or the database at ``url``. Raises ``UserError``."""
        if url is None:
            with disk_errors(store):
                store.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{store / 'ledger.db'}"
        try:
            settings = {"timeout": _PATIENCE} if url.startswith("sqlite") else {}
            self._engine = sa.create_engine(url, pool_pre_ping=True, json_serializer=_json, connect_args=settings)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _tune_sqlite)
                sa.event.listen(self._engine, "begin", _begin_sqlite)
            self._create_tables()
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            cure = "check 'ledger:' and that its server runs"
            raise UserError(f"cannot open the ledger {_shown(url)}: {_cause(error)}", cure=cure) from None

    def _create_tables(self) -> None:
        """One process at a time: each looks what is there, then makes what is missing."""
        with self._engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
            metadata.create_all(connection)

    def close(self) -> None:
        self._engine.dispose()

    # -- what was made ------------------------------------------------------------------------------------------------

    def record_artifact(self, manifest: Mapping[str, Any]) -> None:
        """File an artifact and its parents; again is no change."""
        with self._write(artifacts) as connection:
            if connection.scalar(sa.select(artifacts.c.id).where(artifacts.c.id == manifest["id"])):
                return
            row = {"id": manifest["id"], "kind": manifest["kind"], "at": _now(), "counts": manifest["counts"]}
            connection.execute(artifacts.insert(), row)
            for position, parent in enumerate(manifest["parents"]):
                connection.execute(lineage.insert(), {"child": manifest["id"], "parent": parent, "position": position})

    def parents(self, id: str) -> list[str]:
        rows = self._all(sa.select(lineage.c.parent).where(lineage.c.child == id).order_by(lineage.c.position))
        return [row["parent"] for row in rows]

    def start_run(self, word: str) -> int:
        with self._write() as connection:
            return _new_id(connection, runs, {"word": word, "started": _now()})

    def end_run(self, id: int, outcome: str, detail: Mapping[str, Any]) -> None:
        with self._write() as connection:
            values = {"ended": _now(), "outcome": outcome, "detail": dict(detail)}
            connection.execute(runs.update().where(runs.c.id == id).values(**values))

    def all_runs(self) -> list[RowMapping]:
        return self._all(sa.select(runs).order_by(runs.c.id))

    # -- what is live -------------------------------------------------------------------------------------------------

    def live(self) -> RowMapping | None:
        """The deployment that is live: version, package, action, reason, at."""
        rows = self._all(sa.select(deployments).order_by(deployments.c.id.desc()).limit(1))
        return rows[0] if rows else None

    def deployments(self) -> list[RowMapping]:
        """Every promotion and rollback, oldest first."""
        return self._all(sa.select(deployments).order_by(deployments.c.id))

    def promote(self, package: str, reason: str) -> int:
        """Make ``package`` live under a new version number, which is returned."""
        with self._write(deployments) as connection:
            version = (connection.scalar(sa.select(sa.func.max(deployments.c.version))) or 0) + 1
            self._deploy(connection, version, package, "promote", reason)
        return version

    def rollback(self, reason: str, to: int | None = None) -> RowMapping:
        """Make the version live again that was live before the present one was promoted, and so on back to the first; or version
        ``to``, whichever way that is.

        Gives the deployment that was gone back to. Raises ``UserError`` where nothing was live before, or ``to`` never was.
        """
        with self._write(deployments) as connection:
            history = list(connection.execute(sa.select(deployments).order_by(deployments.c.id)).mappings())
            promoted = {row["version"]: place for place, row in enumerate(history) if row["action"] == "promote"}
            before = promoted[history[-1]["version"]] - 1 if history else -1
            if to is not None:
                before = _place(promoted, history[-1]["version"] if history else None, to)
            if before < 0:
                raise UserError("there is no earlier version to go back to", cure="'treadle report' lists what was live")
            earlier = history[before]
            self._deploy(connection, earlier["version"], earlier["package"], "rollback", reason)
        return earlier

    def _deploy(self, connection: Connection, version: int, package: str, action: str, reason: str) -> None:
        row = {"version": version, "package": package, "action": action, "reason": reason, "at": _now()}
        connection.execute(deployments.insert(), row)
        connection.execute(audit.insert(), {"at": _now(), "action": action, "detail": {"version": version, "package": package}})

    # -- what was answered, and what users said -------------------------------------------------------------------------

    def record_answer(self, **row: Any) -> None:
        """File an answer: the columns of ``answers`` but ``at``. ``prompt`` and ``text`` are None where not consented to."""
        with self._write() as connection:
            connection.execute(answers.insert(), {"at": _now(), **row})

    def answer(self, id: str) -> RowMapping | None:
        rows = self._all(sa.select(answers).where(answers.c.id == id))
        return rows[0] if rows else None

    def record_feedback(self, answer: str, rating: str | None, edited: str | None) -> int:
        """File what a user said of an answer; the newest of each answer counts. Raises ``UserError`` for an unknown answer."""
        try:
            with self._write() as connection:
                return _new_id(connection, feedback, {"answer": answer, "at": _now(), "rating": rating, "edited": edited})
        except sa.exc.IntegrityError:
            raise UserError(f"there is no answer {answer!r}", cure="take the id from the answer itself") from None

    def all_feedback(self) -> list[RowMapping]:
        """Each answer's feedback in order, joined with the answer: id, answer, rating, edited, prompt, text, version, at."""
        columns = (*feedback.c, answers.c.prompt, answers.c.text, answers.c.version, answers.c.package)
        joined = feedback.join(answers, feedback.c.answer == answers.c.id)
        return self._all(sa.select(*columns).select_from(joined).order_by(feedback.c.id))

    def totals(self) -> dict[str, int]:
        """How many answers and how much feedback there is, for the report."""
        count = sa.func.count().label("n")
        each = (sa.select(sa.literal(table.name).label("name"), count).select_from(table) for table in (answers, feedback))
        return {row["name"]: row["n"] for row in self._all(sa.union_all(*each))}

    # -- who may ask --------------------------------------------------------------------------------------------------

    def add_key(self, name: str) -> str:
        """Make an API key; only its hash is kept. Raises ``UserError`` if the name is taken, also by a revoked key."""
        if not re.fullmatch(r"[\w.@ -]{1,80}", name):
            raise UserError(f"{name!r} cannot name a key", cure="use 1 to 80 letters, digits, '.', '-', '_', '@' or spaces")
        key = f"tk-{secrets.token_urlsafe(32)}"
        try:
            with self._write() as connection:
                connection.execute(keys.insert(), {"name": name, "sha256": _hash(key), "at": _now()})
                connection.execute(audit.insert(), {"at": _now(), "action": "add key", "detail": {"name": name}})
        except sa.exc.IntegrityError:
            raise UserError(f"there is a key named {name!r} already", cure="choose another name") from None
        return key

    def revoke_key(self, name: str) -> None:
        with self._write() as connection:
            live = (keys.c.name == name) & keys.c.revoked.is_(None)
            if not connection.execute(keys.update().where(live).values(revoked=_now())).rowcount:
                raise UserError(f"there is no live key named {name!r}", cure="'treadle key list' shows the names")
            connection.execute(audit.insert(), {"at": _now(), "action": "revoke key", "detail": {"name": name}})

    def all_keys(self) -> list[RowMapping]:
        return self._all(sa.select(keys.c.name, keys.c.at, keys.c.revoked).order_by(keys.c.at))

    def key_name(self, key: str) -> str | None:
        """The name of a live key, or None. A key has 256 random bits: nothing to guess, so SHA-256 suffices."""
        given = _hash(key)
        for row in self._all(sa.select(keys.c.name, keys.c.sha256).where(keys.c.revoked.is_(None))):
            if hmac.compare_digest(given, row["sha256"]):
                return str(row["name"])
        return None

    def audit(self) -> list[RowMapping]:
        return self._all(sa.select(audit).order_by(audit.c.id))

    def _all(self, query: sa.Executable) -> list[RowMapping]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).mappings())
        except sa.exc.DatabaseError as error:
            cure = "restore it from a backup, or check its disk and its server"
            raise WorkError(f"the ledger cannot be read: {_cause(error)}", cure=cure) from error

    @contextmanager
    def _write(self, alone_on: sa.Table | None = None) -> Iterator[Connection]:
        """One transaction. SQLite has one writer at a time; a server lets others wait where ``alone_on`` is read, then written."""
        try:
            with self._engine.execution_options(writes=True).begin() as connection:
                if alone_on is not None and connection.dialect.name == "postgresql":
                    connection.execute(sa.text(f"LOCK TABLE {alone_on.name} IN SHARE ROW EXCLUSIVE MODE"))
                yield connection
        except sa.exc.IntegrityError:
            raise
        except sa.exc.DatabaseError as error:
            cure = "check its disk, its rights and its server; nothing was half written"
            raise WorkError(f"the ledger cannot be written: {_cause(error)}", cure=cure) from error


def _place(promoted: Mapping[int, int], live: int | None, wanted: int) -> int:
    """Where in the history version ``wanted`` was promoted. Raises ``UserError``."""
    others = [str(version) for version in promoted if version != live]
    cure = f"versions to choose from: {', '.join(others)}" if others else "there is no other version"
    if wanted == live:
        raise UserError(f"version {wanted} is live already", cure=cure)
    if wanted not in promoted:
        raise UserError(f"there was never a version {wanted}", cure=cure)
    return promoted[wanted]


def _tune_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say, see _begin_sqlite
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here for another that does the same
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: one that reads first and locks later fails when another has written in between."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _json(value: Any) -> str:
    """JSON as servers accept it: what is not finite becomes null."""

    def finite(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {str(key): finite(item) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(item) for item in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), allow_nan=False)


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sa.engine.make_url(url).render_as_string()
    except (sa.exc.ArgumentError, ValueError):
        return "at 'ledger:'"


def _cause(error: Exception) -> str:
    """The driver's own first line, without the statement and its parameters, which may hold users' text."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]


def _new_id(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    key: Sequence[Any] | None = connection.execute(table.insert(), dict(row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
