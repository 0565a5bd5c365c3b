"""The ledger: what was made, what went live, what was answered, what users said. One SQLite file, or PostgreSQL by URL."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import UserError, WorkError

metadata = sa.MetaData()
_stamp = sa.DateTime(timezone=True)

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
    sa.Column("reason", sa.Text, nullable=False), sa.Column("at", _stamp, nullable=False),
)
answers = sa.Table(
    "answers", metadata,
    sa.Column("id", sa.String(80), primary_key=True), sa.Column("at", _stamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False), sa.Column("package", sa.String(80), nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False), sa.Column("prompt", sa.Text), sa.Column("text", sa.Text),
    sa.Column("settings", sa.JSON, nullable=False), sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("answer_tokens", sa.Integer, nullable=False), sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finish_reason", sa.String(20), nullable=False),
)
feedback = sa.Table(
    "feedback", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("answer", sa.ForeignKey("answers.id"), nullable=False, index=True),
    sa.Column("at", _stamp, nullable=False), sa.Column("rating", sa.String(10)), sa.Column("edited", sa.Text),
)
keys = sa.Table(
    "keys", metadata,
    sa.Column("name", sa.String(80), primary_key=True), sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("at", _stamp, nullable=False), sa.Column("revoked", _stamp),
)
audit = sa.Table(
    "audit", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", _stamp, nullable=False),
    sa.Column("action", sa.String(40), nullable=False), sa.Column("detail", sa.JSON, nullable=False),
)


class Ledger:
    """Every method is one transaction, safe to call from any thread."""

    def __init__(self, store: Path, url: str | None = None) -> None:
        """Open, and create where missing, ``store/ledger.db`` or the database at ``url``. Raises ``UserError``."""
        if url is None:
            store.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{store / 'ledger.db'}"
        try:
            self._engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _tune_sqlite)
            metadata.create_all(self._engine)
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            shown = sa.engine.make_url(url).render_as_string() if "://" in url else url
            cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise UserError(f"cannot open the ledger {shown}: {cause}", cure="check 'ledger:' and that its server runs") from None

    def close(self) -> None:
        self._engine.dispose()

    # -- what was made ------------------------------------------------------------------------------------------------

    def record_artifact(self, manifest: Mapping[str, Any]) -> None:
        """File an artifact and its parents; again is no change."""
        with self._engine.begin() as connection:
            if connection.scalar(sa.select(artifacts.c.id).where(artifacts.c.id == manifest["id"])):
                return
            row = {"id": manifest["id"], "kind": manifest["kind"], "at": _now(), "counts": manifest["counts"]}
            connection.execute(artifacts.insert(), row)
            for position, parent in enumerate(manifest["parents"]):
                connection.execute(lineage.insert(), {"child": manifest["id"], "parent": parent, "position": position})

    def parents(self, id: str) -> list[str]:
        with self._engine.connect() as connection:
            found = connection.scalars(sa.select(lineage.c.parent).where(lineage.c.child == id).order_by(lineage.c.position))
            return list(found)

    def start_run(self, word: str) -> int:
        with self._engine.begin() as connection:
            return _new_id(connection, runs, {"word": word, "started": _now()})

    def end_run(self, id: int, outcome: str, detail: Mapping[str, Any]) -> None:
        with self._engine.begin() as connection:
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
        with self._engine.begin() as connection:
            version = (connection.scalar(sa.select(sa.func.max(deployments.c.version))) or 0) + 1
            self._deploy(connection, version, package, "promote", reason)
        return version

    def rollback(self, reason: str) -> RowMapping:
        """Make the version live again that was live before the present one was promoted. Raises ``UserError`` if none was."""
        history = self.deployments()
        live = history[-1] if history else None
        earlier = [row for row in history if row["action"] == "promote" and live and row["version"] < live["version"]]
        if not earlier:
            raise UserError("there is no earlier version to go back to", cure="'treadle report' lists what was live")
        with self._engine.begin() as connection:
            self._deploy(connection, earlier[-1]["version"], earlier[-1]["package"], "rollback", reason)
        return earlier[-1]

    def _deploy(self, connection: Connection, version: int, package: str, action: str, reason: str) -> None:
        row = {"version": version, "package": package, "action": action, "reason": reason, "at": _now()}
        connection.execute(deployments.insert(), row)
        connection.execute(audit.insert(), {"at": _now(), "action": action, "detail": {"version": version, "package": package}})

    # -- what was answered, and what users said -------------------------------------------------------------------------

    def record_answer(self, **row: Any) -> None:
        """File an answer: the columns of ``answers`` but ``at``. ``prompt`` and ``text`` are None where not consented to."""
        with self._engine.begin() as connection:
            connection.execute(answers.insert(), {"at": _now(), **row})

    def answer(self, id: str) -> RowMapping | None:
        rows = self._all(sa.select(answers).where(answers.c.id == id))
        return rows[0] if rows else None

    def record_feedback(self, answer: str, rating: str | None, edited: str | None) -> int:
        """File what a user said of an answer; the newest of each answer counts."""
        with self._engine.begin() as connection:
            return _new_id(connection, feedback, {"answer": answer, "at": _now(), "rating": rating, "edited": edited})

    def all_feedback(self) -> list[RowMapping]:
        """Each answer's feedback in order, joined with the answer: id, answer, rating, edited, prompt, text, version, at."""
        columns = (*feedback.c, answers.c.prompt, answers.c.text, answers.c.version, answers.c.package)
        joined = feedback.join(answers, feedback.c.answer == answers.c.id)
        return self._all(sa.select(*columns).select_from(joined).order_by(feedback.c.id))

    def totals(self) -> dict[str, int]:
        """How many answers and how much feedback there is, for the report."""
        with self._engine.connect() as connection:
            counts = {t.name: connection.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in (answers, feedback)}
        return counts

    # -- who may ask --------------------------------------------------------------------------------------------------

    def add_key(self, name: str) -> str:
        """Make an API key; only its hash is kept. Raises ``UserError`` if the name is taken."""
        key = f"tk-{secrets.token_urlsafe(32)}"
        try:
            with self._engine.begin() as connection:
                connection.execute(keys.insert(), {"name": name, "sha256": _hash(key), "at": _now()})
                connection.execute(audit.insert(), {"at": _now(), "action": "add key", "detail": {"name": name}})
        except sa.exc.IntegrityError:
            raise UserError(f"there is a key named {name!r} already", cure="choose another name, or revoke it first") from None
        return key

    def revoke_key(self, name: str) -> None:
        with self._engine.begin() as connection:
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

    def _all(self, query: sa.Select[Any]) -> list[RowMapping]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).mappings())
        except sa.exc.DatabaseError as error:
            cure = "restore it from a backup, or check its disk"
            raise WorkError(f"the ledger cannot be read: {error.orig}", cure=cure) from error


def _tune_sqlite(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _new_id(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    key: Sequence[Any] | None = connection.execute(table.insert(), dict(row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
