"""The models of one server: each a project with a store, a ledger and an application of its own, and all of them stopped as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from treadle.core.errors import UserError
from treadle.core.project import Project
from treadle.serve.access import check_keys, is_loopback
from treadle.serve.api import Also, longest_body, make_app
from treadle.serve.hall import Hall, Room
from treadle.serve.limits import check_prices
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.watch import Watch
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger


@dataclass(frozen=True)
class Served:
    """A project whose live version is served."""

    project: Project
    store: Store
    ledger: Ledger

    @property
    def name(self) -> str:
        return self.project.spec.name

    @property
    def names(self) -> tuple[str, ...]:
        """By which requests may name it: its own, and its adapters'."""
        return (self.name, *self.project.spec.serve.adapters)

    def check(self, host: str) -> None:
        """Raises ``UserError`` where nothing is live, ``host`` can be reached from elsewhere and there is no key, or a key's limit
        of money has no price."""
        self.ledger.must_be_live()
        check_keys(host, self.ledger)
        check_prices(self.ledger, self.project.spec.serve.price)


class Models:
    """The live models of a server."""

    def __init__(self) -> None:
        self.lives: list[LiveModel] = []
        self._watches: list[Watch] = []
        self._draining = False

    def open(self, every: Sequence[Served], host: str, also: Also | None = None) -> ASGIApp:
        """Load each one's live version; the application that answers for them all, on the address ``host``, each with what ``also``
        adds. Raises as ``LiveModel`` does; what was loaded until then is closed by ``close``."""
        rooms = []
        for served in every:
            spec, monitor = served.project.spec, Monitor()
            live = LiveModel(served.store, served.ledger, spec.serve, monitor, served.project.folder)
            self.lives.append(live)
            others = [other.names for other in every if other is not served]
            app = make_app(served.project, served.ledger, live, monitor, host, also, others)
            self._watches.append(app.watch)
            rooms.append(Room(served.names, app, served.ledger, longest_body(spec)))
        return Hall(rooms, is_loopback(host)) if len(rooms) > 1 else rooms[0].app

    @property
    def draining(self) -> bool:
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        for live in self.lives:
            live.draining = value

    @property
    def busy(self) -> int:
        """Answers for users that are being written or wait."""
        return sum(live.busy for live in self.lives)

    def close(self) -> None:
        """Cancel what is left and end all threads."""
        for live in self.lives:
            live.close()
        for watch in self._watches:
            watch.close()


def check_apart(every: Sequence[Served]) -> None:
    """Raises ``UserError`` where two models have the same name, or one ledger."""
    names, ledgers = set[str](), set[str]()
    for served in every:
        ledger = served.project.ledger_url or str(served.project.store)
        what = "name" if names & set(served.names) else "ledger" if ledger in ledgers else None
        if what:
            cure = "give each project a name and a store (or 'ledger:') of its own"
            raise UserError(f"two of the projects that are served together have the same {what}: {served.name}", cure=cure)
        names.update(served.names)
        ledgers.add(ledger)
