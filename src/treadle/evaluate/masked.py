"""masked language model + dataset -> scorecard: how well it finds tokens that a fixed mask hides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from treadle.core.batch import IGNORE, Batch
from treadle.core.machine import threads
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.loader import Numbers
from treadle.data.masking import Masker, masked_documents
from treadle.data.shards import Shard
from treadle.data.tokenizer import load_tokenizer
from treadle.evaluate.documents import choose_documents
from treadle.evaluate.gate import judge
from treadle.evaluate.metrics import Figure, Floats, ratio, weights
from treadle.model.network import load_network
from treadle.model.score import score_masked
from treadle.store.artifacts import Artifact, Store, write_json

VERSION = 1


def evaluate_masked(project: Project, store: Store, model: Artifact, dataset: Artifact, *, baselines: bool = True) -> Artifact:
    """Score ``model`` on the test part of ``dataset``."""
    settings, seed = project.spec.evaluate, project.spec.seed
    config = settings.model_dump(mode="json") | {"seed": seed, "baselines": baselines}
    making = store.making("scorecard", (model.id, dataset.id), config, VERSION, seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(threads())
    network, shard = load_network(model.path), Shard(dataset.path, "test")
    ((name, _),), ((head, given),) = network.spec.inputs.items(), network.spec.heads.items()
    masker = Masker(load_tokenizer(dataset.path / "tokenizer.json"), given.settings, 0)
    chosen = choose_documents(shard, settings.max_tokens, seed)
    pieces = list(masked_documents(shard, chosen, masker, network.context, name, head))
    with task("scoring the test part", len(pieces), "pieces") as work:
        nats, correct, count = score_masked(network, pieces, len(chosen), work.advance)
    drawn = weights(len(chosen), settings.resamples, seed)
    figures = {head: _figures(nats, correct, count, drawn)}
    naive = {"frequencies alone": _frequencies(dataset, head, pieces, count, drawn)} if baselines else {}
    card: dict[str, Any] = {
        "kind": "records", "measure": "loss", "model": model.id, "dataset": dataset.id, "part": "test", "records": len(chosen),
        "heads": {head: {
            "kind": given.kind, "metrics": {key: figure.as_dict() for key, figure in figures[head].items()},
            "unanswered": 0, "unseen": 0,
            "baselines": {key: {metric: figure.as_dict() for metric, figure in found.items()} for key, found in naive.items()},
        }},
        "hidden": int(count.sum()), "gate": judge(settings, figures) if baselines else [],
    }
    with making.draft() as draft:
        write_json(draft.path / "scorecard.json", card)
        table = {"id": [shard.ids[i] for i in chosen], "loss": nats, "size": count, "document": chosen}
        pq.write_table(pa.table(table), draft.path / "documents.parquet")
        draft.counts.update(card)
    return making.open()


def _figures(nats: Floats, correct: Floats, count: Floats, drawn: Floats) -> dict[str, Figure]:
    """loss: nats per hidden token. perplexity: exp(loss). accuracy: share of hidden tokens that were found."""
    drawn = drawn[(drawn @ count) > 0]
    return {
        "loss": ratio(nats, count, drawn), "perplexity": ratio(nats, count, drawn, np.exp),
        "accuracy": ratio(correct, count, drawn),
    }


def _frequencies(
    dataset: Artifact, head: str, pieces: Sequence[tuple[int, Batch]], count: Floats, drawn: Floats
) -> dict[str, Figure]:
    """Each token's share of the train part, with one more of each (Laplace), whatever stands around it."""
    vocabulary = int(dataset.counts["vocabulary"])
    seen = np.bincount(np.asarray(Shard(dataset.path, "train").tokens), minlength=vocabulary) + 1.0
    surprise, likeliest = math.log(seen.sum()) - np.log(seen), int(seen.argmax())
    nats, correct = np.zeros(len(count)), np.zeros(len(count))
    for place, batch in pieces:
        wanted: Numbers = batch.targets[head].numpy()
        wanted = wanted[wanted != IGNORE]
        nats[place] += surprise[wanted].sum()
        correct[place] += (wanted == likeliest).sum()
    return _figures(nats, correct, count, drawn)
