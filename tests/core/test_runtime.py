"""How many threads train."""

from __future__ import annotations

import pytest
import torch

from treadle.core.machine import cores
from treadle.core.runtime import SMALL_STEP, choose_runtime


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(before)


def test_a_step_too_short_to_share_takes_one_thread_and_says_so():
    runtime = choose_runtime("float32", None, SMALL_STEP / 2)
    assert runtime.threads == torch.get_num_threads() == 1
    assert cores() == 1 or "too short to share" in runtime.reason


@pytest.mark.parametrize(
    ("threads", "step", "expected"), [(None, SMALL_STEP * 2, cores()), (None, float("inf"), cores()), (2, 1.0, 2)]
)
def test_a_long_step_takes_every_core_and_what_is_given_is_taken(threads: int | None, step: float, expected: int):
    runtime = choose_runtime("float32", threads, step)
    assert (runtime.threads, torch.get_num_threads()) == (expected, expected)
    assert "short" not in runtime.reason


def test_the_environment_limits_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose_runtime("float32").threads == torch.get_num_threads() == 1
