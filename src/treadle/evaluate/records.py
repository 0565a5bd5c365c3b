"""network + dataset of records -> scorecard: each head's figures with intervals, baselines on the same records, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from treadle.core.machine import threads
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.schema import Schema
from treadle.data.table import Table
from treadle.evaluate.answers import POOLED, HeadScores, head_figures, score_records, stand
from treadle.evaluate.bag_of_words import bag_of_words
from treadle.evaluate.boosting import boosted_trees
from treadle.evaluate.embeddings import word_vectors
from treadle.evaluate.gate import judge
from treadle.evaluate.items import recommenders
from treadle.evaluate.metrics import Floats, weights
from treadle.evaluate.naive import always_the_same
from treadle.evaluate.tags import words_alone
from treadle.model.network import load_network
from treadle.store.artifacts import Artifact, Store, write_json

VERSION = 5
BASELINES = (always_the_same, boosted_trees, recommenders, bag_of_words, words_alone, word_vectors)
"""Each: (dataset, schema, scores) -> head -> baseline's name -> its answers to the same records, in the form of the head's own."""


def evaluate_records(project: Project, store: Store, model: Artifact, dataset: Artifact, *, baselines: bool = True) -> Artifact:
    """Score ``model`` on the test part of ``dataset``."""
    settings, seed = project.spec.evaluate, project.spec.seed
    config = settings.model_dump(mode="json", exclude={"folds", "time"}) | {"seed": seed, "baselines": baselines}
    making = store.making("scorecard", (model.id, dataset.id), config, VERSION, seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(threads())
    schema, network = Schema.load(dataset.path), load_network(model.path)
    table = Table.open(dataset.path, "test", list(schema.inputs), list(schema.targets), shuffle=False)
    with task("scoring the test part", table.records, "records") as work:
        scores = score_records(network, table, work.advance)
    drawn = weights(table.records, settings.resamples, seed)
    figures = {name: head_figures(head, schema.targets[name], drawn) for name, head in scores.items()}
    compared = _compared(dataset, schema, scores, drawn) if baselines else {}
    card = {
        "kind": "records", "measure": "loss", "model": model.id, "dataset": dataset.id, "part": "test", "records": table.records,
        "heads": {
            name: {
                "kind": scores[name].kind, "metrics": {metric: figure.as_dict() for metric, figure in found.items()},
                "baselines": compared.get(name, {}), "unanswered": int((~scores[name].known).sum()),
                "unseen": int(scores[name].unseen.sum()),
            }
            for name, found in figures.items()
        },
        "gate": judge(settings, figures) if baselines else [],
    }
    card |= {"fold": dataset.counts["fold"]} if "fold" in dataset.counts else {}
    with making.draft() as draft:
        write_json(draft.path / "scorecard.json", card)
        for name, head in scores.items():
            if head.kind in POOLED:
                np.save(draft.path / f"outputs.{name}.npy", head.outputs, allow_pickle=False)
        _write_scores(draft.path / "documents.parquet", dataset, network.weights, scores)
        draft.counts.update(card)
    return making.open()


def _compared(
    dataset: Artifact, schema: Schema, scores: Mapping[str, HeadScores], drawn: Floats
) -> dict[str, dict[str, dict[str, Any]]]:
    """Head -> baseline's name -> its figures, and under ``against`` how the model stands against it on the same records."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in scores}
    for make in BASELINES:
        for name, given in make(dataset, schema, scores).items():
            ours, target = scores[name], schema.targets[name]
            for title, outputs in given.items():
                theirs = replace(ours, outputs=outputs)
                figures = head_figures(theirs, target, drawn)
                figures.pop("loss")  # that of the network's own answers
                found[name][title] = {metric: figure.as_dict() for metric, figure in figures.items()}
                if against := stand(ours, theirs, target, drawn):
                    found[name][title]["against"] = against
    return found


def _write_scores(path: Any, dataset: Artifact, shares: Mapping[str, float], scores: Mapping[str, HeadScores]) -> None:
    """Per record: id, the weighted sum of the heads' losses, and 1: what two versions are compared by."""
    ids = pq.read_table(dataset.path / "test.records.parquet")["id"]
    loss = np.sum([shares[name] * np.nan_to_num(head.losses) for name, head in scores.items()], axis=0)
    pq.write_table(pa.table({"id": ids, "loss": loss, "size": np.ones(len(loss))}), path)
