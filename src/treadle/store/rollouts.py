"""Rollouts in the ledger: a candidate beside the live version, since when, for how large a share, and how that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from treadle.core.errors import UserError
from treadle.store.database import new_id
from treadle.store.keys import Keys
from treadle.store.tables import answers, artifacts, deployments, feedback, now, rollouts, shadows
from treadle.store.trail import append

Kind = Literal["canary", "shadow", "ab"]
"""What a candidate gets: a share of requests, to see that it does no harm; copies of them, whose answers no one sees; or a share,
until it is known which of the two is better."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES: Mapping[str, float] = {"canary": 0.05, "shadow": 1.0, "ab": 0.5}
"""Of requests, where none is given."""
_NONE = "there is no candidate beside the live version"
_CURE = "begin with 'treadle rollout canary', 'shadow' or 'ab'"


@dataclass(frozen=True)
class Rollout:
    """A rollout under way. One that was changed in kind or share counts anew, under another ``id``."""

    id: int
    version: int
    package: str
    kind: Kind
    share: float
    alpha: float
    """Chance of naming a winner where there is none."""
    reason: str
    at: datetime

    @property
    def answers(self) -> bool:
        """Whether users get the candidate's answers."""
        return self.kind != "shadow"


class Rollouts(Keys):
    """The ledger's rollouts. There is one at a time, and it ends when another version goes live."""

    def rollout(self) -> Rollout | None:
        """The one that is under way."""
        rows = self._all(sa.select(rollouts).order_by(rollouts.c.id.desc()).limit(1))
        return _under_way(rows[0]) if rows else None

    def all_rollouts(self) -> list[RowMapping]:
        """Every start, change and end, oldest first: kind is canary, shadow or ab, or else promoted, stopped or replaced."""
        return self._all(sa.select(rollouts).order_by(rollouts.c.id))

    def start_rollout(
        self, kind: Kind, candidate: str | int | None, reason: str, share: float | None = None, alpha: float = 0.05
    ) -> Rollout:
        """Put ``candidate`` beside the live version: a package's id or a version's number; None: the candidate that there is, which
        goes on in another way. ``share`` of requests: None takes that of ``SHARES``.

        A package that had a version number keeps it. Raises ``UserError`` where nothing is live, the candidate is not known or live
        already, or the share is none.
        """
        share = SHARES[kind] if share is None else share
        if not 0 < share <= 1 or (share == 1 and kind == "ab"):
            least = "over 0%, and below 100%: both sides need answers" if kind == "ab" else "over 0%, up to 100%"
            raise UserError(f"a share of {share:.0%} is none", cure=f"of '{kind}' it is {least}")
        if not 0 < alpha < 1:
            raise UserError(f"alpha {alpha:g} is no chance", cure="it lies between 0 and 1, as 5% does")
        with self._write(deployments) as connection:
            live = connection.execute(sa.select(deployments).order_by(deployments.c.id.desc()).limit(1)).mappings().first()
            if live is None:
                raise UserError("no version is live", cure="the first one is promoted: 'treadle run'")
            before = _current(connection)
            version, package = _named(connection, candidate, before)
            if package == live["package"]:
                raise UserError(f"{package} is live already, as version {live['version']}", cure="name another version or package")
            if before is not None and before.package != package:
                _end(connection, before, "replaced", f"version {version} takes its place")
                before = None
            row: dict[str, Any] = {"version": version, "package": package, "kind": kind, "share": share, "alpha": alpha}
            detail = {"live": live["version"], **row}
            row |= {"reason": reason, "at": now()}
            made = Rollout(new_id(connection, rollouts, row), **row)
            append(connection, "change rollout" if before else "start rollout", detail)
        return made

    def stop_rollout(self, reason: str, only: int | None = None) -> Rollout:
        """Take the candidate out; the live version answers everything. ``only`` if it is still the rollout of this ``id``.

        Raises ``UserError`` where there is none.
        """
        with self._write(deployments) as connection:
            found = _current(connection)
            if found is None or only not in (None, found.id):
                raise UserError(_NONE, cure=_CURE)
            _end(connection, found, "stopped", reason)
        return found

    # -- what came of it ----------------------------------------------------------------------------------------------

    def arms(self, rollout: int) -> list[RowMapping]:
        """Of each version that answered under ``rollout``: version, package, answers, errors, seconds (the mean)."""
        failed = sa.func.sum(sa.case((answers.c.finish_reason == "error", 1), else_=0)).label("errors")
        columns = (answers.c.version, answers.c.package, sa.func.count().label("answers"), failed)
        query = sa.select(*columns, sa.func.avg(answers.c.seconds).label("seconds")).where(answers.c.rollout == rollout)
        return self._all(query.group_by(answers.c.version, answers.c.package).order_by(answers.c.version))

    def said_under(self, rollout: int) -> list[RowMapping]:
        """The newest feedback on each answer that was drawn under ``rollout``, oldest first: version, rating, edited, and text and
        settings of the answer."""
        newest = sa.select(sa.func.max(feedback.c.id)).group_by(feedback.c.answer)
        columns = (answers.c.version, feedback.c.rating, feedback.c.edited, answers.c.text, answers.c.settings)
        joined = feedback.join(answers, feedback.c.answer == answers.c.id)
        query = sa.select(*columns).select_from(joined).where(answers.c.rollout == rollout, feedback.c.id.in_(newest))
        return self._all(query.order_by(feedback.c.id))

    def record_shadows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """File answers that no user has seen: the columns of ``shadows`` but ``at``."""
        with self._write() as connection:
            connection.execute(shadows.insert(), [{"at": now(), **row} for row in rows])

    def shadows_of(self, rollout: int, most: int = 10_000) -> list[RowMapping]:
        """The newest shadow answers of ``rollout``, newest first: every column but text."""
        columns = [column for column in shadows.c if column.name != "text"]
        return self._all(sa.select(*columns).where(shadows.c.rollout == rollout).order_by(shadows.c.at.desc()).limit(most))


def next_version(connection: Connection) -> int:
    """A number that neither a version nor a candidate had. The table ``deployments`` is locked."""
    highest = [connection.scalar(sa.select(sa.func.max(table.c.version))) or 0 for table in (deployments, rollouts)]
    return max(highest) + 1


def end_rollout(connection: Connection, live: int, package: str) -> None:
    """Version ``live`` of ``package`` goes live: a rollout that is under way ends, as the candidate's promotion or for want of
    what it was compared with."""
    found = _current(connection)
    if found is not None and found.package == package:
        _end(connection, found, "promoted", f"version {live} is live")
    elif found is not None:
        _end(connection, found, "stopped", f"version {live} went live")


def must_be_under_way(connection: Connection) -> Rollout:
    """Raises ``UserError`` where no rollout is."""
    found = _current(connection)
    if found is None:
        raise UserError(_NONE, cure=_CURE)
    return found


def _current(connection: Connection) -> Rollout | None:
    row = connection.execute(sa.select(rollouts).order_by(rollouts.c.id.desc()).limit(1)).mappings().first()
    return None if row is None else _under_way(row)


def _under_way(row: RowMapping) -> Rollout | None:
    return Rollout(**row) if row["kind"] in KINDS else None


def _end(connection: Connection, rollout: Rollout, how: str, reason: str) -> None:
    same = {"version": rollout.version, "package": rollout.package}
    connection.execute(rollouts.insert(), {
        **same, "kind": how, "share": 0.0, "alpha": rollout.alpha, "reason": reason, "at": now(),
    })
    append(connection, "end rollout", {**same, "kind": rollout.kind, "outcome": how, "reason": reason})


def _named(connection: Connection, candidate: str | int | None, before: Rollout | None) -> tuple[int, str]:
    """Version and package of what is named, or of the rollout under way. Raises ``UserError``."""
    if candidate is not None:
        return _find(connection, candidate)
    if before is None:
        raise UserError(_NONE, cure="name its version or package, as in 'treadle rollout canary v3'")
    return before.version, before.package


def _find(connection: Connection, candidate: str | int) -> tuple[int, str]:
    """Version and package of what is named. Raises ``UserError``."""
    had = [row for table in (deployments, rollouts)
           for row in connection.execute(sa.select(table.c.version, table.c.package).order_by(table.c.id))]
    packages = {int(row.version): str(row.package) for row in had}
    numbers = {package: version for version, package in packages.items()}
    if isinstance(candidate, int):
        if candidate not in packages:
            cure = f"known versions: {', '.join(map(str, sorted(packages)))}; or name a package"
            raise UserError(f"there was never a version {candidate}", cure=cure)
        return candidate, packages[candidate]
    made = connection.scalars(sa.select(artifacts.c.id).where(artifacts.c.kind == "package").order_by(artifacts.c.at))
    known = list(dict.fromkeys([*made, *numbers]))
    found = [name for name in known if name == candidate] or [name for name in known if name.startswith(candidate)]
    if len(found) != 1:
        what = f"{candidate!r} could be {' or '.join(found)}" if found else f"there is no package {candidate!r}"
        raise UserError(what, cure=f"known, the newest last: {', '.join(known[-5:])}" if known else "make one with 'treadle run'")
    return numbers.get(found[0]) or next_version(connection), found[0]
