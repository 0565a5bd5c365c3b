"""A seed makes one version live in another ledger, under the number that it has at home."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.core.errors import UserError
from treadle.store.ledger import Ledger
from treadle.store.seed import Seed

SECOND = Seed("tiny", 2, "package-b", "2026-01-01T00:00:00+00:00", "better")


def test_a_seed_is_read_as_it_was_written(tmp_path: Path):
    home = Ledger(tmp_path / "home")
    for package in ("package-a", "package-b"):
        home.promote(package, "better")
    seed = Seed.of("tiny", home.live())
    seed.write(tmp_path / "seed.json")
    assert Seed.read(tmp_path / "seed.json") == seed
    assert (seed.version, seed.package, seed.reason) == (2, "package-b", "better")


def test_sowing_makes_the_version_live_once(tmp_path: Path):
    ledger = Ledger(tmp_path)
    assert SECOND.sow(ledger)
    assert not SECOND.sow(ledger)
    assert [(row["version"], row["package"], row["action"]) for row in ledger.deployments()] == [(2, "package-b", "promote")]
    assert [row["detail"] for row in ledger.audit()] == [{"version": 2, "package": "package-b"}]


def test_a_newer_version_and_the_way_back_are_both_filed(tmp_path: Path):
    ledger = Ledger(tmp_path)
    third = Seed("tiny", 3, "package-c", SECOND.promoted, "better still")
    assert [seed.sow(ledger) for seed in (SECOND, third, SECOND)] == [True, True, True]
    assert [(row["version"], row["action"]) for row in ledger.deployments()] == [(2, "promote"), (3, "promote"), (2, "rollback")]
    assert ledger.live()["package"] == "package-b"


def test_a_ledger_of_another_project_is_refused(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.promote("package-x", "its own")
    ledger.promote("package-y", "its own")
    with pytest.raises(UserError, match="version 2 as package-y, the seed as package-b"):
        SECOND.sow(ledger)
    assert ledger.live()["package"] == "package-y"


WRONG = '{"project": "", "version": "2", "package": "", "promoted": "", "reason": ""}'


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', WRONG])
def test_what_is_no_seed_is_the_users_error(tmp_path: Path, text: str):
    (tmp_path / "seed.json").write_text(text)
    with pytest.raises(UserError, match="is no seed"):
        Seed.read(tmp_path / "seed.json")
    with pytest.raises(UserError, match="No such file"):
        Seed.read(tmp_path / "nowhere.json")
