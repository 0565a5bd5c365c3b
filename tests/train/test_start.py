"""From hidden words to an answer: a network starts from the trunk and the tokens of a masked language model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import write_project
from treadle.core.errors import UserError
from treadle.data.schema import Schema
from treadle.data.tokenizer import load_tokenizer
from treadle.model.network import load_network, make_network
from treadle.model.start import take_over
from treadle.pipeline import Workshop, build
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.train.rounds import first_round
from treadle.train.stage import train_model

MASKED = """\
name: masked
data: {sources: [{files: "*.txt", licence: CC0-1.0, cut: 60 B}], split: {test: 25%, validation: 15%}, clean: {dedupe: none}}
model:
  inputs: {line: {tokenizer: {words: 30}, context: 16}}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
  heads: {hidden: {masked_token: {mask: 30%}}}
train: {budget: 60 steps, batch: 16, learning_rate: 0.02, validate_tokens: 256, threads: 1, precision: float32}
evaluate: {gate: {accuracy: ">= 30%", perplexity: "<= 40"}, resamples: 200}
"""
TUNED = """\
name: tuned
data: {sources: [{table: "rows.csv", licence: CC0-1.0}], split: {test: 25%, validation: 15%}}
model:
  start_from: ../masked
  inputs: {said: text}
  trunk: {transformer: {depth: 1, width: 32, heads: 2}}
  heads: {kind: category}
train: {budget: 2 steps, batch: 8, threads: 1, precision: float32}
"""
SUBJECTS, VERBS = ["the cat", "a dog", "the bird"], ["eats", "sees", "hears"]
LINES = [f"{s} {v} {o}." for s in SUBJECTS for v in VERBS for o in ("bread", "fish", "corn", "rain")]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("start") / "masked"
    folder.mkdir()
    random = np.random.default_rng(0)
    (folder / "a.txt").write_text("\n\n".join(" ".join(random.choice(LINES, 4)) for _ in range(60)))
    workshop = Workshop.open(write_project(folder, text=MASKED))
    outcome = build(workshop, None)
    yield folder, workshop, outcome
    workshop.ledger.close()


def tuned(folder: Path, *overrides: str, text: str = TUNED):
    target = folder.parent / "tuned"
    target.mkdir(exist_ok=True)
    rows = [f"{line},{'food' if line[-5:] in ('read.', 'fish.', 'corn.') else 'other'}" for line in LINES]
    (target / "rows.csv").write_text("said,kind\n" + "\n".join(rows))
    workshop = Workshop.open(write_project(target, *overrides, text=text))
    workshop.ledger.close()
    project, store = workshop.project, workshop.store
    return project, store, make_dataset(project, store, make_corpus(project, store))


def test_it_finds_hidden_words_better_than_frequencies_do(masked) -> None:
    _, workshop, outcome = masked
    (head,) = outcome.scorecard["heads"].values()
    ours, naive = head["metrics"], head["baselines"]["frequencies alone"]
    assert ours["loss"]["value"] < naive["loss"]["value"] - 0.2
    assert ours["perplexity"]["value"] == pytest.approx(np.exp(ours["loss"]["value"]))
    assert naive["perplexity"]["value"] == pytest.approx(np.exp(naive["loss"]["value"]))
    assert outcome.package["drift"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="writes no text"):
        LiveModel(workshop.store, workshop.ledger, workshop.project.spec.serve, Monitor())


def test_trunk_and_tokens_are_taken_over(masked) -> None:
    folder, workshop, outcome = masked
    earlier_folder = workshop.store.open(outcome.artifacts["model"]).path
    project, store, dataset = tuned(folder)
    earlier, made = load_network(earlier_folder), first_round(project, dataset).model
    for name, tensor in earlier.trunk.state_dict().items():
        assert torch.equal(made.trunk.state_dict()[name], tensor), name
    assert torch.equal(made.inputs["said"].embed_tokens.weight, earlier.inputs["line"].embed_tokens.weight)
    theirs = load_tokenizer(earlier_folder / "tokenizer.json")
    assert Schema.load(dataset.path).inputs["said"].tokenizer.get_vocab() == theirs.get_vocab()
    with_start = train_model(project, store, dataset, first_round(project, dataset))
    assert "start_from" not in json.dumps(with_start.manifest["config"]["model"].get("trunk"))
    content = with_start.manifest["config"]["model"]["start_from"]
    assert len(content) == 64
    project, store, dataset = tuned(folder, text=TUNED.replace("../masked", str(earlier_folder)))
    same = train_model(project, store, dataset, first_round(project, dataset))
    assert same.id == with_start.id  # what counts is the content, not where it lies


def test_a_trunk_of_another_size_is_refused(masked) -> None:
    folder, workshop, outcome = masked
    project, _, dataset = tuned(folder, "model.trunk.transformer.width=48")
    with pytest.raises(UserError, match="of another kind or size") as refused:
        first_round(project, dataset).make()
    assert "'width': 32" in refused.value.cure
    network = make_network(project.spec.model, Schema.load(dataset.path).layouts, 0)
    with pytest.raises(UserError):
        take_over(network, workshop.store.open(outcome.artifacts["model"]).path)


def test_what_holds_no_model_is_refused(masked, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no network"):
        tuned(masked[0], text=TUNED.replace("../masked", str(tmp_path)))
