"""serve.log, serve.traces and serve.alerts: what is no URL, no level and no time is said, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import write_project
from treadle.core.project import SpecError


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    wrong = (
        "serve.log=text", "serve.traces=localhost:4318", "serve.alerts.webhook=hooks.example.com", "serve.alerts.drift=little",
        "serve.alerts.latency=5", "serve.alerts.errors=300%", "serve.alerts.tries=0", "serve.alerts.settle=0 s",
    )
    with pytest.raises(SpecError) as caught:
        write_project(tmp_path, *wrong)
    said = str(caught.value)
    for given in wrong:
        key = given.partition("=")[0].rpartition(".")[2]
        assert key in said, key
    assert said.count("a URL begins with http:// or https://") == 2
    assert len(caught.value.problems) == len(wrong)


def test_what_is_right_is_read(tmp_path: Path) -> None:
    right = ("serve.traces=$COLLECTOR/v1/traces", "serve.alerts.webhook=https://hooks.example.com/$HOOK",
    "serve.alerts.latency=5 s",
             "serve.alerts.errors=2%", "serve.alerts.drift=none", "serve.log=json")
    serve = write_project(tmp_path, *right).spec.serve
    assert (serve.traces, serve.alerts.webhook) == ("$COLLECTOR/v1/traces", "https://hooks.example.com/$HOOK")
    assert (serve.alerts.latency, serve.alerts.errors, serve.alerts.drift, serve.log) == (5.0, 0.02, "none", "json")
