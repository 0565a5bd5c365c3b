"""``treadle rollout``, and what ``run`` and ``improve`` do with a better version where ``serve.rollout`` has it stand beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tiny import write_project
from treadle.cli import app
from treadle.core.project import load_project
from treadle.pipeline import Workshop, build, improve, live_package, plan
from treadle.report.trace import trace
from treadle.show import outcome as shown
from treadle.store.ledger import Ledger


def words(folder: Path, *given: str, code: int = 0) -> Any:
    """What the command says: a JSON document."""
    done = CliRunner().invoke(app, ["rollout", *given, "--json", "-f", str(folder)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def lines(folder: Path, *given: str) -> str:
    done = CliRunner().invoke(app, ["rollout", *given, "-f", str(folder)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with version 1 live, and a package beside it."""
    project = write_project(tmp_path / "project")
    ledger = Ledger(project.store)
    for id in ("package-a", "package-b"):
        ledger.record_artifact({"id": id, "kind": "package", "counts": {}, "parents": []})
    ledger.promote("package-a", "first")
    ledger.close()
    return project.folder


def test_from_a_shadow_over_a_canary_to_a_promotion(folder: Path) -> None:
    assert words(folder) == {"live": 1, "rollout": None}
    assert "no candidate" in lines(folder, "status")
    assert "gets copies of 100% of requests" in lines(folder, "shadow", "package-b")
    begun = words(folder, "canary", "--share", "5%", "--reason", "the shadow says the same")["rollout"]
    assert (begun["version"], begun["kind"], begun["share"], begun["reason"]) == (2, "canary", 0.05, "the shadow says the same")
    assert words(folder, "ab", "v2", "--alpha", "1%")["rollout"]["alpha"] == 0.01
    told = words(folder, "status")
    assert (told["rollout"]["kind"], told["rollout"]["share"], told["winner"]) == ("ab", 0.5, None)
    assert [side["role"] for side in told["sides"]] == ["live", "candidate"]
    assert "winner known: not yet" in lines(folder)
    assert words(folder, "promote") == {"live": 2, "before": 1}
    assert words(folder, "status") == {"live": 2, "rollout": None}
    back = CliRunner().invoke(app, ["rollback", "--json", "-f", str(folder)])
    assert json.loads(back.stdout)["version"] == 1
    assert words(folder, "canary", "2")["rollout"]["version"] == 2
    assert words(folder, "stop")["stopped"]["version"] == 2
    audit = CliRunner().invoke(app, ["audit", "--json", "-f", str(folder)])
    actions = [entry["action"] for entry in json.loads(audit.stdout)["entries"]]
    assert actions == ["promote", "start rollout", "change rollout", "change rollout", "promote", "end rollout", "rollback",
                       "start rollout", "end rollout"]
    assert CliRunner().invoke(app, ["audit", "verify", "-f", str(folder)]).exit_code == 0


@pytest.mark.parametrize(("given", "said"), [
    (["canary"], "no candidate"), (["promote"], "no candidate"), (["stop"], "no candidate"), (["cannary"], "no such word"),
    (["canary", "package-z"], "no package 'package-z'"), (["canary", "v9"], "never a version 9"),
    (["canary", "package-b", "--share", "lots"], "--share 'lots'"), (["ab", "package-b", "--share", "100%"], "both sides"),
    (["ab", "package-b", "--alpha", "0"], "alpha"), (["status", "package-b"], "of the candidate that there is"),
    (["stop", "--share", "5%"], "of the candidate that there is"),
])
def test_what_is_wrong_is_said(folder: Path, given: list[str], said: str) -> None:
    error = words(folder, *given, code=2)["error"]
    assert said in error["message"] + error["cure"]
    assert error["cure"]
    assert words(folder, "status")["rollout"] is None


def test_the_file_says_share_and_alpha_where_the_word_is_its_own(folder: Path) -> None:
    file = folder / "treadle.yaml"
    own = "serve: {port: 0, rollout: {kind: canary, share: 12%, alpha: 2%}}"
    file.write_text(file.read_text().replace("serve: {port: 0}", own))
    assert words(folder, "canary", "package-b")["rollout"]["share"] == 0.12
    other = words(folder, "ab")["rollout"]
    assert (other["share"], other["alpha"]) == (0.5, 0.02)
    file.write_text(file.read_text().replace("kind: canary, share: 12%", "kind: ab, share: 100%"))
    assert "below 100%" in words(folder, "status", code=2)["error"]["message"]


def test_a_better_version_stands_beside_first_where_the_file_says_so(tmp_path: Path) -> None:
    """And an answer of the candidate is traced to its data like any other."""
    write_project(tmp_path)
    rollout = ("serve.rollout.kind=canary", "serve.rollout.share=20%")
    workshop = Workshop.open(load_project(tmp_path, rollout))
    first = build(workshop, plan(workshop))
    assert (first.version, first.rollout) == (1, {}), "the first version has nothing to stand beside"
    package = live_package(workshop).id
    for i in range(40):
        workshop.ledger.record_answer(
            id=f"cmpl-{i}", version=1, package=package, stored=True, prompt=f"def function_{i}(", text="x", settings={},
            prompt_tokens=5, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        workshop.ledger.record_feedback(f"cmpl-{i}", "down", "self, name: str) -> None:\n    self.name = name\n")
    second = improve(workshop)
    assert (second.version, second.rollout) == (2, {"kind": "canary", "share": 0.2})
    assert workshop.ledger.live()["version"] == 1
    begun = workshop.ledger.rollout()
    assert (begun.version, begun.package) == (2, second.artifacts["package"])
    assert any("stands beside the live one (canary, 20% of requests)" in line for line in shown(second.as_dict()))
    assert improve(workshop).version == 2, "the same again is the same candidate"
    assert workshop.ledger.rollout().id == begun.id
    workshop.ledger.record_answer(
        id="cmpl-of-2", version=2, package=begun.package, stored=False, prompt=None, text=None, settings={}, prompt_tokens=5,
        answer_tokens=1, seconds=0.1, finish_reason="stop", rollout=begun.id,
    )
    found = trace(workshop.store, workshop.ledger, "cmpl-of-2")
    assert found.whole
    assert any(fact.startswith("canary ") for fact in found.root.children[0].facts)
    assert "not live: version 1 is" in found.root.children[0].facts
    assert trace(workshop.store, workshop.ledger, "v2").root.children[0].name == begun.package
    assert workshop.ledger.promote_candidate("it does well") == 2
    assert live_package(workshop).id == begun.package
