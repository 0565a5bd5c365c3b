"""Progress goes to standard error, as lines where there is no terminal, with rate and time left."""

from __future__ import annotations

import pytest

from treadle.core import progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_now_and_then_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.task("training", total=100, unit="steps") as work:
        for _ in range(30):
            clock.now += 1
            work.advance(1, "loss 2.31")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 10%, 1 steps/s, 1 min 30 s left, loss 2.31", "training: 20%, 1 steps/s, 1 min 20 s left, loss 2.31",
        "training: 30%, 1 steps/s, 1 min 10 s left, loss 2.31",
    ]


def test_a_resumed_task_counts_its_own_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.task("training", total=100, unit="steps") as work:
        work.done = 80  # by an earlier process
        clock.now += 10
        work.at(90)
    assert capsys.readouterr().err == "training: 90%, 1 steps/s, 10 s left\n"


def test_nothing_to_do_is_no_division_by_zero(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.task("nothing", total=0) as work:
        clock.now += 20
        work.advance(0)
    assert "nothing" in capsys.readouterr().err


def test_text_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("a [bold]b[/bold] " + "x" * 300)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a [bold]b[/bold] " + "x" * 300 + "\n")
