"""Worlds at three moments."""

from __future__ import annotations

from pathlib import Path

import pytest
from records_world import records_world
from report_world import World, empty_world, feedback_round, first_run


@pytest.fixture
def empty(tmp_path: Path) -> World:
    return empty_world(tmp_path)


@pytest.fixture
def trained(tmp_path: Path) -> World:
    """After ``treadle run``."""
    world = empty_world(tmp_path)
    first_run(world)
    return world


@pytest.fixture
def improved(tmp_path: Path) -> World:
    """After ``treadle run``, feedback, and ``treadle improve``."""
    world = empty_world(tmp_path)
    first_run(world)
    feedback_round(world)
    return world


@pytest.fixture
def records(tmp_path: Path) -> World:
    """The same of a project of records."""
    return records_world(tmp_path)
