"""One folder for the tests that only read it."""

from __future__ import annotations

import pytest
from shipped import Home, live_project

from treadle.ship.package import ship


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o755)
    project, store, ledger, id = live_project(folder)
    for package in ("package-first", "package-second", id):
        ledger.promote(package, f"better than before {package}")
    return Home(project, store, ledger, ship(project, store, ledger, folder / "shipped"))
