"""Where a package that writes text is opened."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from treadle.serve import writers
from treadle.serve.version import Version
from treadle.spec.stages import Serve


class _Opened(Exception):
    """How the engine was asked for."""


@pytest.mark.parametrize(("cache", "most"), [(None, 20 * 2**30), (12345, 12345)])
def test_a_gpu_is_taken_where_there_is_one_and_that_is_said(
    template: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: int | None, most: int
) -> None:
    """A quarter of what is free in it is for what texts said so far; the GPU itself is not there."""

    def engine(*given: Any) -> None:
        raise _Opened(given)

    folder, ids = template
    monkeypatch.setattr(writers, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU of the test")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 2**30, 100 * 2**30))
    monkeypatch.setattr(writers, "Engine", engine)
    path = folder / ".treadle" / "artifacts" / "package" / ids[0].partition("-")[2]
    with pytest.raises(_Opened) as opened:
        writers.open_writer(path, Version(3, ids[0], 0), Serve(cache=cache), folder, threading.Event())
    *_, memory, adapters, device = opened.value.args[0]
    assert (memory, adapters, device) == (most, [], torch.device("cuda"))
    assert "Version 3 computes on a GPU of the test" in capsys.readouterr().err
