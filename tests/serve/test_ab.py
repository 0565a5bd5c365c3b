"""Users rate what they get over the API; who is better is known when the evidence says so, and the better one goes live."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sites import Running, Site

from treadle.serve import live as module
from treadle.serve import route
from treadle.store.standing import standing


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)
    monkeypatch.setattr(route, "_chance", random.Random(5))


@pytest.mark.parametrize(("liked", "winner"), [({1: 0.3, 2: 0.9}, "candidate"), ({1: 0.9, 2: 0.3}, "live")])
def test_the_version_that_users_like_is_named_and_goes_live(
    serve: Callable[..., Running], site: Site, until: Callable[..., None], liked: dict[int, float], winner: str
) -> None:
    server, ledger, users = serve(), site.ledger, random.Random(8)
    ledger.record_artifact({"id": site.packages[1], "kind": "package", "counts": {}, "parents": []})
    ledger.start_rollout("ab", site.packages[1], "which is better?")
    until(lambda: server.live.beside is not None)

    def ask(**headers: str) -> Any:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        return server.client.post("/v1/completions", json=body, headers=headers).json()

    def rate(told: Any, good: bool) -> httpx.Response:
        return server.client.post("/v1/feedback", json={"answer_id": told["id"], "rating": "up" if good else "down"})

    for _ in range(20):  # whoever asks for a version knows which it is: that is not counted
        assert rate(ask(**{"x-treadle-version": "1"}), good=winner == "candidate").status_code == 200
    assert [side.good + side.bad for side in standing(ledger).sides] == [0, 0]
    rated = 0
    while standing(ledger).winner is None and rated < 200:
        told = ask()
        assert rate(told, users.random() < liked[told["version"]]).status_code == 200
        rated += 1
    found = standing(ledger)
    assert found.winner == winner
    assert sum(side.good + side.bad for side in found.sides) == rated
    assert all(side.low <= liked[side.version] <= side.high for side in found.sides)
    if winner == "candidate":
        ledger.promote_candidate("users like it better")
        until(lambda: server.live.version.number == 2)
    else:
        ledger.stop_rollout("users like it less")
        until(lambda: server.live.beside is None)
    assert {ask()["version"] for _ in range(5)} == {2 if winner == "candidate" else 1}
