"""The whole loop at a tiny size, on real source files: build, cache, feedback, improvement, refusal, rollback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tiny import write_project
from treadle.core.errors import ArtifactError, GateRefused, SourceError, UserError
from treadle.core.project import load_project
from treadle.data.shards import END_ID
from treadle.data.tokenizer import decode, load_tokenizer
from treadle.model.generate import generate
from treadle.model.hub import load_model
from treadle.pipeline import Workshop, build, improve, live_package, plan


def run(folder: Path, *overrides: str):
    workshop = Workshop.open(load_project(folder, overrides))
    return workshop, build(workshop, plan(workshop))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    workshop, outcome = run(folder)
    return folder, workshop, outcome


def test_every_stage_leaves_an_artifact_that_names_its_parents(built: tuple):
    _, workshop, outcome = built
    made = outcome.artifacts
    assert set(made) == {"corpus", "dataset", "model", "scorecard", "package"}
    parents = {kind: workshop.ledger.parents(id) for kind, id in made.items()}
    assert parents == {
        "corpus": [], "dataset": [made["corpus"]], "model": [made["dataset"]], "scorecard": [made["model"], made["dataset"]],
        "package": [made["model"], made["scorecard"]],
    }
    assert workshop.ledger.live()["package"] == made["package"]
    assert outcome.version == 1
    assert not outcome.cached
    assert {row["stage"] for row in outcome.plan["stages"]} == {"prepare", "train", "evaluate", "compress"}


def test_the_account_balances_and_is_stored(built: tuple):
    _, workshop, outcome = built
    account = outcome.account
    assert account["in"] == account["kept"] + sum(account["set_aside"].values())
    assert workshop.store.open(outcome.artifacts["corpus"]).counts["account"] == account


def test_training_helped(built: tuple):
    _, workshop, outcome = built
    lines = (workshop.store.folder(outcome.artifacts["model"]) / "history.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"loss"' in line]
    assert len(steps) == 30
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert list((workshop.store.folder(outcome.artifacts["model"]) / "tensorboard").iterdir())


def test_a_second_run_finds_everything_made(built: tuple):
    folder, _, outcome = built
    _, again = run(folder)
    assert again.artifacts == outcome.artifacts
    assert set(again.cached) == {"prepare", "train", "evaluate", "compress"}
    assert (again.version, again.decision) == (1, None)


def test_what_is_served_is_a_quarter_of_what_was_trained_and_close_to_it(built: tuple):
    _, workshop, outcome = built
    package = outcome.package
    assert package["package"]["bytes"] < 0.35 * package["original"]["bytes"]
    assert abs(package["drift"]) <= package["max_drift"]
    folder = workshop.store.folder(outcome.artifacts["package"])
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    assert decode(tokenizer, generate(load_model(folder), [END_ID], 5, end=END_ID)) is not None


def test_without_quantisation_the_package_is_the_model(built: tuple, tmp_path: Path):
    folder, workshop, outcome = built
    _, other = run(folder, "compress.quantize=none")
    tokens = torch.randint(0, 400, (2, 32))
    models = [load_model(workshop.store.folder(id)) for id in (outcome.artifacts["model"], other.artifacts["package"])]
    assert torch.equal(models[0].logits(tokens), models[1].logits(tokens))
    assert abs(other.package["drift"]) < 1e-6
    assert "packaged anew" in workshop.ledger.live()["reason"]
    assert workshop.ledger.rollback("back to int8")["package"] == outcome.artifacts["package"]


def test_the_gate_refuses_and_says_why(built: tuple):
    folder, _, outcome = built
    with pytest.raises(GateRefused, match=r"bits_per_byte .* is not <= 0.5") as caught:
        run(folder, "evaluate.gate.bits_per_byte='<= 0.5'")
    assert caught.value.exit_code == 1
    assert caught.value.figures["scorecard"]["gate"][0]["passed"] is False
    workshop = Workshop.open(load_project(folder))
    assert workshop.ledger.all_runs()[-1]["outcome"] == "refused"
    assert workshop.ledger.live()["package"] == outcome.artifacts["package"]


def test_a_worse_build_does_not_replace_the_live_version(built: tuple):
    folder, workshop, outcome = built
    with pytest.raises(GateRefused, match="not promoted: against version 1"):
        run(folder, "train.budget=2 steps")
    assert workshop.ledger.live()["package"] == outcome.artifacts["package"]


def test_a_tampered_artifact_is_refused(tmp_path: Path):
    write_project(tmp_path)
    workshop, outcome = run(tmp_path)
    file = workshop.store.folder(outcome.artifacts["model"]) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="was changed after it was written") as caught:
        run(tmp_path)
    assert "remove" in caught.value.cure


def test_sources_that_are_missing_or_empty(tmp_path: Path):
    for pattern, message in (("nowhere/*.txt", "nowhere"), ("*.nothing", "matches no file")):
        write_project(tmp_path, text=(Path(__file__).parent / "tiny.py").read_text().split('"""')[3].lstrip("\\\n").replace(
            "{stdlib}/email/*.py", pattern))
        with pytest.raises(SourceError, match=message):
            run(tmp_path)


def teach(workshop: Workshop, count: int, edit: str) -> None:
    """Users who edit every answer in the same way."""
    version = workshop.ledger.live()["version"]
    package = live_package(workshop).id
    for i in range(count):
        workshop.ledger.record_answer(
            id=f"cmpl-{version}-{i}", version=version, package=package, stored=True, prompt=f"def function_{i}(", text="x",
            settings={}, prompt_tokens=5, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        workshop.ledger.record_feedback(f"cmpl-{version}-{i}", "down", edit)


def test_feedback_becomes_a_better_version_and_can_be_taken_back(tmp_path: Path):
    write_project(tmp_path)
    workshop, first = run(tmp_path)
    with pytest.raises(UserError, match="8 are needed"):
        improve(workshop)
    teach(workshop, 40, "self, name: str) -> None:\n    self.name = name\n")
    outcome = improve(workshop)
    assert outcome.decision is not None
    assert outcome.decision.promote
    assert outcome.version == 2
    assert workshop.ledger.live()["package"] == outcome.artifacts["package"]
    model = workshop.store.open(outcome.artifacts["model"])
    assert model.parents[:2] == (first.artifacts["model"], first.artifacts["dataset"])
    reasons = {row["key"]: (row["value"], row["reason"]) for row in model.counts["derived"]}
    assert reasons["learning_rate"] == ("0.02", "given")
    assert reasons["budget"][0] == model.counts["budget"] == f"{model.counts['steps']} steps"
    assert reasons["budget"][1].startswith("8 passes over 2")
    assert reasons["replay"][0] == "50%"
    assert workshop.ledger.rollback("it was worse")["version"] == 1
    assert workshop.ledger.live()["package"] == first.artifacts["package"]


def test_feedback_that_costs_too_much_of_the_old_is_refused(tmp_path: Path):
    write_project(tmp_path)
    workshop, first = run(tmp_path, "improve.max_loss=0.01%", "improve.replay=0", "improve.learning_rate=0.1")
    teach(workshop, 40, "zzzz qqqq zzzz qqqq\n")
    with pytest.raises(GateRefused, match="old test part") as caught:
        improve(workshop)
    assert "lower improve.learning_rate, now 0.1, or raise improve.replay, now 0%" in caught.value.cure
    assert workshop.ledger.live()["package"] == first.artifacts["package"]


def test_a_round_that_learns_nothing_is_refused(tmp_path: Path):
    write_project(tmp_path)
    workshop, first = run(tmp_path, "improve.learning_rate=1e-30", "improve.budget=1 steps")
    for i in range(40):
        workshop.ledger.record_answer(
            id=f"c{i}", version=1, package=first.artifacts["package"], stored=True, prompt=f"p{i}", text=f"{i * 7919 % 10007}",
            settings={}, prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        workshop.ledger.record_feedback(f"c{i}", "up", None)
    with pytest.raises(GateRefused, match="held-out feedback") as caught:
        improve(workshop)
    assert "improve.budget, now 1 steps" in caught.value.cure
    assert "learning_rate" not in caught.value.cure
