"""The ledger: what was made, what went live, what was answered, what users said. One SQLite file, or PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import UserError, WorkError
from treadle.store.database import new_id
from treadle.store.rollouts import Rollouts, end_rollout, must_be_under_way, next_version
from treadle.store.tables import answers, artifacts, audit, deployments, feedback, lineage, now, runs
from treadle.store.trail import append, check


@dataclass(frozen=True)
class Said:
    """Of one version's answers: how many there are, how many were said something of, and what was said last of each."""

    answers: int = 0
    rated: int = 0
    up: int = 0
    down: int = 0
    edited: int = 0


class Ledger(Rollouts):
    """Every method is one transaction, safe to call from any thread."""

    # -- what was made ------------------------------------------------------------------------------------------------

    def record_artifact(self, manifest: Mapping[str, Any]) -> None:
        """File an artifact and its parents; again is no change."""
        with self._write(artifacts) as connection:
            if connection.scalar(sa.select(artifacts.c.id).where(artifacts.c.id == manifest["id"])):
                return
            row = {"id": manifest["id"], "kind": manifest["kind"], "at": now(), "counts": manifest["counts"]}
            connection.execute(artifacts.insert(), row)
            for position, parent in enumerate(manifest["parents"]):
                connection.execute(lineage.insert(), {"child": manifest["id"], "parent": parent, "position": position})

    def parents(self, id: str) -> list[str]:
        rows = self._all(sa.select(lineage.c.parent).where(lineage.c.child == id).order_by(lineage.c.position))
        return [row["parent"] for row in rows]

    def start_run(self, word: str) -> int:
        with self._write() as connection:
            return new_id(connection, runs, {"word": word, "started": now()})

    def end_run(self, id: int, outcome: str, detail: Mapping[str, Any]) -> None:
        with self._write() as connection:
            values = {"ended": now(), "outcome": outcome, "detail": dict(detail)}
            connection.execute(runs.update().where(runs.c.id == id).values(**values))

    def all_runs(self) -> list[RowMapping]:
        return self._all(sa.select(runs).order_by(runs.c.id))

    # -- what is live -------------------------------------------------------------------------------------------------

    def live(self) -> RowMapping | None:
        """The deployment that is live: version, package, action, reason, at."""
        rows = self._all(sa.select(deployments).order_by(deployments.c.id.desc()).limit(1))
        return rows[0] if rows else None

    def must_be_live(self) -> RowMapping:
        """``live``. Raises ``UserError`` where nothing is."""
        row = self.live()
        if row is None:
            raise UserError("no version is live", cure="make and promote one with 'treadle run'")
        return row

    def deployments(self) -> list[RowMapping]:
        """Every promotion and rollback, oldest first."""
        return self._all(sa.select(deployments).order_by(deployments.c.id))

    def promote(self, package: str, reason: str) -> int:
        """Make ``package`` live under a new version number, which is returned."""
        with self._write(deployments) as connection:
            version = next_version(connection)
            self._deploy(connection, version, package, "promote", reason)
        return version

    def promote_candidate(self, reason: str) -> int:
        """Make the candidate of the rollout that is under way live, under the version number that it has; that is given back.

        Raises ``UserError`` where there is none.
        """
        with self._write(deployments) as connection:
            found = must_be_under_way(connection)
            self._deploy(connection, found.version, found.package, "promote", reason)
        return found.version

    def adopt(self, version: int, package: str, action: str, reason: str) -> None:
        """Make ``package`` live under a number that another ledger gave it."""
        with self._write(deployments) as connection:
            self._deploy(connection, version, package, action, reason)

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
        row = {"version": version, "package": package, "action": action, "reason": reason, "at": now()}
        connection.execute(deployments.insert(), row)
        append(connection, action, {"version": version, "package": package})
        end_rollout(connection, version, package)

    # -- what was answered, and what users said -------------------------------------------------------------------------

    def record_answer(self, **row: Any) -> None:
        """File an answer: the columns of ``answers`` but ``at``. ``prompt`` and ``text`` are None where not consented to."""
        self.record_answers([row])

    def record_answers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """File several: all of them or none."""
        with self._write() as connection:
            connection.execute(answers.insert(), [{"at": now(), **row} for row in rows])

    def answer(self, id: str) -> RowMapping | None:
        if "\0" in id:  # which no database's text can hold
            return None
        rows = self._all(sa.select(answers).where(answers.c.id == id))
        return rows[0] if rows else None

    def record_feedback(self, answer: str, rating: str | None, edited: str | None, key: str | None = None) -> int:
        """File what a user said of an answer, by the key of this name; the newest of each answer counts. Raises ``UserError`` for
        an unknown answer."""
        row = {"answer": answer, "at": now(), "rating": rating, "edited": edited, "key": key}
        try:
            with self._write() as connection:
                return new_id(connection, feedback, row)
        except sa.exc.IntegrityError:
            raise UserError(f"there is no answer {answer!r}", cure="take the id from the answer itself") from None

    def all_feedback(self) -> list[RowMapping]:
        """Each answer's feedback in order, joined with the answer: id, answer, rating, edited, key, prompt, text, version, at."""
        columns = (*feedback.c, answers.c.prompt, answers.c.text, answers.c.version, answers.c.package)
        joined = feedback.join(answers, feedback.c.answer == answers.c.id)
        return self._all(sa.select(*columns).select_from(joined).order_by(feedback.c.id))

    def feedback_set_aside(self) -> dict[str, int]:
        """Of the corpus that was last made of users' feedback: how much was set aside, by reason."""
        corpora = sa.select(artifacts.c.counts).where(artifacts.c.kind == "corpus").order_by(artifacts.c.at.desc())
        for row in self._all(corpora):
            if "keys" in row["counts"]:  # which only a corpus of feedback tells
                return dict(row["counts"]["account"]["set_aside"])
        return {}

    def unjudged(self, most: int, skip: int = 0) -> list[RowMapping]:
        """Answers whose text is kept and that nothing was said of, the newest first: ``most`` of them after ``skip``."""
        said = sa.exists().where(feedback.c.answer == answers.c.id)
        query = sa.select(answers).where(answers.c.stored, answers.c.text.is_not(None), ~said)
        return self._all(query.order_by(answers.c.at.desc(), answers.c.id).offset(skip).limit(most))

    def totals(self) -> dict[str, int]:
        """How many answers and how much feedback there is, for the report."""
        count = sa.func.count().label("n")
        each = (sa.select(sa.literal(table.name).label("name"), count).select_from(table) for table in (answers, feedback))
        return {row["name"]: row["n"] for row in self._all(sa.union_all(*each))}

    def said(self) -> dict[int, Said]:
        """What was said of each version's answers."""
        newest = sa.select(sa.func.max(feedback.c.id)).group_by(feedback.c.answer)
        last = sa.select(feedback).where(feedback.c.id.in_(newest)).subquery()
        said = sa.or_(last.c.rating.is_not(None), last.c.edited.is_not(None))  # null takes back what was said before

        def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.count(sa.case((condition, 1)))

        statement = sa.select(
            answers.c.version, sa.func.count().label("answers"), count(said).label("rated"),
            count(last.c.rating == "up").label("up"), count(last.c.rating == "down").label("down"),
            count(last.c.edited.is_not(None)).label("edited"),
        ).select_from(answers.outerjoin(last, last.c.answer == answers.c.id)).group_by(answers.c.version)
        return {row["version"]: Said(*(int(row[name]) for name in Said.__annotations__)) for row in self._all(statement)}

    # -- the audit trail ----------------------------------------------------------------------------------------------

    def note(self, action: str, detail: Mapping[str, Any]) -> None:
        """Add an entry to the audit trail."""
        with self._write() as connection:
            append(connection, action, detail)

    def audit(self) -> list[RowMapping]:
        """Every entry of the audit trail, oldest first."""
        return self._all(sa.select(audit).order_by(audit.c.id))

    def check_audit(self, head: str | None = None) -> tuple[int, str]:
        """How many entries the audit trail has, and the hash of the last: its head.

        Raises ``WorkError`` for the first entry that is wrong, and where none has the hash ``head``, which was the head once: then
        entries were taken from the end.
        """
        rows = self.audit()
        found = check(rows)
        if head is not None and head not in {row["hash"] for row in rows}:
            cure = "compare with a backup of the ledger, or check the hash that was noted"
            raise WorkError(f"the audit trail has lost its end: no entry of the {found[0]} has the hash {head[:64]!r}", cure=cure)
        return found


def _place(promoted: Mapping[int, int], live: int | None, wanted: int) -> int:
    """Where in the history version ``wanted`` was promoted. Raises ``UserError``."""
    others = [str(version) for version in promoted if version != live]
    cure = f"versions to choose from: {', '.join(others)}" if others else "there is no other version"
    if wanted == live:
        raise UserError(f"version {wanted} is live already", cure=cure)
    if wanted not in promoted:
        raise UserError(f"there was never a version {wanted}", cure=cure)
    return promoted[wanted]
