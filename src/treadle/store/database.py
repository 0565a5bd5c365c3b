"""The ledger's database: opened, brought up to date, read and written. One SQLite file, or PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import UserError, WorkError
from treadle.store.artifacts import disk_errors
from treadle.store.tables import as_json, audit, metadata
from treadle.store.trail import protect, seal

_PATIENCE = 30.0  # seconds that a writer waits for others
_TABLES_LOCK = 0x7EAD1E  # any number, the same for all who make the tables


class Database:
    """Every method of those who build on it is one transaction, safe to call from any thread."""

    def __init__(self, store: Path, url: str | None = None) -> None:
        """Open, and create where missing, ``store/ledger.db`` or the database at ``url``. Raises ``UserError``."""
        if url is None:
            with disk_errors(store):
                store.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{store / 'ledger.db'}"
        try:
            settings = {"timeout": _PATIENCE} if url.startswith("sqlite") else {}
            # Parameters are hidden, since what users wrote and keys' hashes are among them and errors end in logs.
            self._engine = sa.create_engine(
                url, pool_pre_ping=True, json_serializer=as_json, connect_args=settings, hide_parameters=True
            )
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _tune_sqlite)
                sa.event.listen(self._engine, "begin", _begin_sqlite)
            self._turn: AbstractContextManager[Any] = threading.Lock() if self._engine.dialect.name == "sqlite" else nullcontext()
            self._create_tables()
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            cure = "check 'ledger:' and that its server runs"
            raise UserError(f"cannot open the ledger {_shown(url)}: {_cause(error)}", cure=cure) from None

    def _create_tables(self) -> None:
        """One process at a time: each looks what is there, then makes what is missing."""
        with self._engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
            fresh = not sa.inspect(connection).has_table(audit.name)
            metadata.create_all(connection)
            unsealed = "audit.hash" in _add_columns(connection)
            if unsealed:
                seal(connection)
            if unsealed or fresh:
                protect(connection)

    def close(self) -> None:
        self._engine.dispose()

    def _all(self, query: sa.Executable) -> list[RowMapping]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).mappings())
        except sa.exc.DatabaseError as error:
            cure = "restore it from a backup, or check its disk and its server"
            raise WorkError(f"the ledger cannot be read: {_cause(error)}", cure=cure) from error

    @contextmanager
    def _write(self, alone_on: sa.Table | None = None) -> Iterator[Connection]:
        """One transaction. SQLite has one writer at a time, and others look for their turn in pauses that grow to 100 ms: threads
        of this process take turns by a lock instead. A server lets others wait where ``alone_on`` is read, then written."""
        try:
            with self._turn, self._engine.execution_options(writes=True).begin() as connection:
                if alone_on is not None:
                    lock(connection, alone_on)
                yield connection
        except sa.exc.IntegrityError:
            raise
        except sa.exc.DatabaseError as error:
            cure = "check its disk, its rights and its server; nothing was half written"
            raise WorkError(f"the ledger cannot be written: {_cause(error)}", cure=cure) from error


def lock(connection: Connection, table: sa.Table) -> None:
    """Let no one else write ``table`` until this transaction ends. SQLite has one writer at a time in any case."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))


def new_id(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    """Insert ``row``, and give the id that the database chose for it."""
    key: Sequence[Any] | None = connection.execute(table.insert(), dict(row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _add_columns(connection: Connection) -> set[str]:
    """Add what tables of an earlier Treadle lack, and give it as ``table.column``. All that came later may be null."""
    added = set()
    found = sa.inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
                added.add(f"{table.name}.{column.name}")
    return added


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


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sa.engine.make_url(url).render_as_string()
    except (sa.exc.ArgumentError, ValueError):
        return "at 'ledger:'"


def _cause(error: Exception) -> str:
    """The driver's own first line, without the statement and its parameters, which may hold users' text."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
