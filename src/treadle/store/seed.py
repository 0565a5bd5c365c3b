"""A seed: the version that a packaged folder serves, so that a ledger elsewhere says of its answers what the one at home says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy.engine import RowMapping

from treadle.core.errors import UserError
from treadle.store.artifacts import write_json
from treadle.store.ledger import Ledger


@dataclass(frozen=True)
class Seed:
    """A version as the ledger that gave it its number knows it."""

    project: str
    version: int
    package: str
    """Id of the artifact."""
    promoted: str
    """When it went live there, ISO 8601."""
    reason: str

    @classmethod
    def of(cls, project: str, row: RowMapping) -> Seed:
        """The seed of the deployment ``row`` of ``project``'s ledger."""
        return cls(project, int(row["version"]), str(row["package"]), row["at"].isoformat(), str(row["reason"]))

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Seed:
        """Raises ``UserError`` where ``path`` is not what ``write`` made."""
        cure = "name the seed.json that 'treadle package' wrote"
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"cannot read the seed {path}: {error.strerror}", cure=cure) from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is no seed: {error}", cure=cure) from None
        if not isinstance(found.version, int) or not isinstance(found.package, str):
            raise UserError(f"{path} is no seed: it names no version and package", cure=cure)
        return found

    def sow(self, ledger: Ledger) -> bool:
        """Make this version live in ``ledger`` under its own number; False where it is live already.

        Raises ``UserError`` where the ledger knows another package by that number: it is another project's."""
        history = ledger.deployments()
        if history and (history[-1]["version"], history[-1]["package"]) == (self.version, self.package):
            return False
        known = {int(row["version"]): str(row["package"]) for row in history}
        if known.get(self.version, self.package) != self.package:
            message = f"the ledger knows version {self.version} as {known[self.version]}, the seed as {self.package}"
            raise UserError(message, cure="give each project a ledger (a state folder) of its own")
        action = "rollback" if self.version in known else "promote"
        ledger.adopt(self.version, self.package, action, f"packaged: {self.reason}")
        return True
