"""Checkpoints: written beside the steps, one at a time, and which of them stay."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_loop import Seen, Waiting, make_loop

from treadle.core.errors import WorkError
from treadle.train.checkpoint import Snapshot, folder_of
from treadle.train.hooks import Step


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


class Gate:
    """Holds the writer back until step ``until`` is done, and counts how many write at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until: int) -> None:
        self.until, self.open, self.at_once, self.most, self.written = until, threading.Event(), 0, 0, 0
        write = Snapshot.write

        def slowly(taken: Snapshot, folder: Path) -> None:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            assert self.open.wait(60), "the steps did not go on"
            write(taken, folder)
            self.at_once -= 1
            self.written += 1

        monkeypatch.setattr(Snapshot, "write", slowly)

    def on_step(self, figures: Step) -> None:
        if figures.step == self.until:
            assert self.written == 0
            self.open.set()

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        pass


def test_steps_go_on_while_a_copy_of_an_earlier_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = make_loop(tmp_path / "plain", "2 steps", validate_every=0, schedule="constant", warmup=0)
    plain.run([])
    expected = load_file(folder_of(tmp_path / "plain", 2) / "optimizer.safetensors")
    del expected["random.cpu"]
    loop = make_loop(
        tmp_path / "run", "12 steps", validate_every=0, schedule="constant", warmup=0, checkpoint_every="1 ms", keep_every=2
    )
    gate = Gate(monkeypatch, 3)
    loop.save = lambda wait=True, save=loop.save: save(wait) if loop.position.step in (2, 12) else None  # type: ignore[method-assign]
    loop.run([gate])
    assert gate.most == 1
    found = load_file(folder_of(tmp_path / "run", 2) / "optimizer.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert steps_in(tmp_path / "run") == [2, 12]


def test_while_one_is_written_no_other_is_begun_but_of_a_step_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop = make_loop(tmp_path, "30 steps", checkpoint_every="1 ms", keep_checkpoints=9)
    gate = Gate(monkeypatch, 20)
    loop.run([gate])
    assert gate.most == 1
    assert set(steps_in(tmp_path)) >= {30}
    assert not set(range(2, 20)) & set(steps_in(tmp_path))


@pytest.mark.parametrize("step", [3, 10])
def test_what_the_writer_cannot_write_is_said_at_the_next_step_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """A real failure: the folder's name is taken by a file."""
    loop, seen = make_loop(tmp_path, "10 steps", validate_every=0), Seen()
    (tmp_path / "checkpoints").write_text("in the way")
    gate = Gate(monkeypatch, min(step + 1, 10))  # else it may fail before the step at which it was taken is over

    class Due:
        def on_step(self, figures: Step) -> None:
            if figures.step == step < 10:
                loop.save(wait=False)
            elif figures.step == step + 1:
                while loop.checkpoints._writing and not loop.checkpoints._writing.done():
                    pass

        def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
            pass

    with pytest.raises(WorkError, match="cannot write"):
        loop.run([gate, Due(), seen])
    assert seen.steps[-1].step == min(step + 1, 10)
    loop.close()


@pytest.mark.parametrize(("settings", "stay"), [
    ({}, [11, 12]), ({"keep_every": 4}, [4, 8, 11, 12]), ({"keep_best": True}, [6, 11, 12]),
    ({"schedule": {"stable": {"fall": "25%"}}}, [9, 11, 12]),
], ids=["newest", "every", "best", "stable"])
def test_which_stay(tmp_path: Path, settings: dict[str, object], stay: list[int]):
    losses = iter([3.0, 2.0, 1.0, 2.0, 2.0, 2.0])  # after every second step: the best after the sixth
    loop = make_loop(tmp_path, "12 steps", checkpoint_every="1 ms", validate_every=1 / 6, **settings)
    loop.validate = lambda model: next(losses)

    loop.run([Waiting(loop)])
    assert steps_in(tmp_path) == stay
    assert loop.checkpoints.staying(loop.position) == [step for step in stay if step != 11]
    state = json.loads((folder_of(tmp_path, 12) / "state.json").read_text())
    assert state["position"]["best_step"] == 6
