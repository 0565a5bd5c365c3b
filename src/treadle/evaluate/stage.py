"""model + dataset -> scorecard: figures with intervals, baselines on the same bytes, a verdict, and a sample to read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from treadle.core.machine import threads
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.loader import Numbers
from treadle.data.shards import END_ID, Shard
from treadle.data.tokenizer import UNKNOWN, UNKNOWN_ID, decode, keeps_spaces, load_tokenizer
from treadle.evaluate.baselines import NGram, compressed_nats
from treadle.evaluate.documents import choose_documents, shard_tokens
from treadle.evaluate.gate import judge
from treadle.evaluate.masked import evaluate_masked
from treadle.evaluate.metrics import Floats, Scores, bits_per_byte, figures, weights
from treadle.evaluate.records import evaluate_records
from treadle.model.generate import generate, make_memory
from treadle.model.memory import TextModel
from treadle.model.score import score_documents
from treadle.model.text import load_text_model
from treadle.spec.stages import Evaluate
from treadle.store.artifacts import Artifact, Store, write_json

VERSION = 2
PART = "test"


def evaluate_model(project: Project, store: Store, model: Artifact, dataset: Artifact, *, baselines: bool = True) -> Artifact:
    """Score ``model`` on the test part of ``dataset``. The verdict stands in the scorecard; acting on it is the caller's.

    Without ``baselines``, as on users' answers, there is no verdict either: the gate's bounds are for the project's test part.
    """
    if dataset.counts.get("kind") == "records":
        return evaluate_records(project, store, model, dataset, baselines=baselines)
    if project.spec.model.masks:
        return evaluate_masked(project, store, model, dataset, baselines=baselines)
    settings = project.spec.evaluate
    config = settings.model_dump(mode="json") | {"seed": project.spec.seed, "baselines": baselines}
    parents = (model.id, dataset.id)
    making = store.making("scorecard", parents, config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    torch.set_num_threads(threads())
    shard = Shard(dataset.path, PART)
    chosen = choose_documents(shard, settings.max_tokens, project.spec.seed)
    network, tokenizer = load_text_model(model.path), load_tokenizer(model.path / "tokenizer.json")
    scores = score(network, shard, chosen)
    drawn = weights(len(chosen), settings.resamples, project.spec.seed)
    metrics = figures(scores, drawn)
    card: dict[str, Any] = {
        "kind": "language", "measure": "bits per byte",
        "model": model.id, "dataset": dataset.id, "part": PART, "documents": len(chosen),
        "tokens": int(scores.tokens.sum()), "bytes": int(scores.bytes.sum()),
        "left_out": {"documents": len(shard) - len(chosen), "tokens": len(shard.tokens) - int(shard_tokens(shard, chosen).sum())},
        "metrics": {name: figure.as_dict() for name, figure in metrics.items()},
        "baselines": _baselines(shard, chosen, dataset, drawn) if baselines else {},
        "gate": judge(settings, {"language": metrics}) if baselines else [],
        "samples": _samples(network, tokenizer, settings, project.spec.seed),
        "notes": _notes(tokenizer, shard, chosen),
    }
    with making.draft() as draft:
        write_json(draft.path / "scorecard.json", card)
        table = {"id": [shard.ids[i] for i in chosen], "nats": scores.nats, "correct": scores.correct}
        table |= {"loss": scores.nats / math.log(2), "size": scores.bytes}
        table |= {"tokens": scores.tokens, "bytes": scores.bytes, "document": chosen}
        pq.write_table(pa.table(table), draft.path / "documents.parquet")
        draft.counts.update(card)
    return making.open()


def score(model: TextModel, shard: Shard, chosen: Numbers) -> Scores:
    """Per-document scores of the chosen documents."""
    documents = [shard.document(int(i)) for i in chosen]
    masks = [shard.document_targets(int(i)) for i in chosen]
    with task("scoring the test part", sum(int(m.sum()) for m in masks), "tokens") as work:
        found = score_documents(model, documents, masks, work.advance)
    sizes = shard.bytes[chosen].astype(np.float64)
    return Scores(found.nats, found.correct.astype(np.float64), found.tokens.astype(np.float64), sizes)


def _baselines(shard: Shard, chosen: Numbers, dataset: Artifact, drawn: Floats) -> dict[str, Any]:
    """bits_per_byte of each baseline; the n-gram models learn from the same train part as the model."""
    documents = [shard.document(int(i)) for i in chosen]
    sizes = shard.bytes[chosen].astype(np.float64)
    tokenizer = load_tokenizer(dataset.path / "tokenizer.json")
    train = Shard(dataset.path, "train").tokens
    found: dict[str, Floats] = {}
    whole = keeps_spaces(tokenizer)  # else a compressor would have to write what the model need not
    with task("baselines", 2 + whole) as work:
        for name, order in (("unigram", 1), ("trigram", 3)):
            counted = NGram(train, tokenizer.get_vocab_size(), order)
            found[name] = np.array([counted.nats(document) for document in documents])
            work.advance(1, name)
        if whole:
            found["lzma"] = compressed_nats([decode(tokenizer, document[:-1].tolist()).encode() for document in documents])
            work.advance(1, "lzma")
    return {name: {"bits_per_byte": bits_per_byte(nats, sizes, drawn).as_dict()} for name, nats in found.items()}


def _notes(tokenizer: Tokenizer, shard: Shard, chosen: Numbers) -> list[str]:
    """What the figures leave out."""
    notes = []
    if tokenizer.token_to_id(UNKNOWN) == UNKNOWN_ID:
        unknown = sum(int((shard.document(int(i)) == UNKNOWN_ID).sum()) for i in chosen)
        if unknown:
            share = unknown / int(shard_tokens(shard, chosen).sum())
            notes.append(f"{share:.2%} of the tokens are 'unknown': which word or character stood there is not predicted")
    if not keeps_spaces(tokenizer):
        notes.append("words are predicted without the spaces between them: bits_per_byte compares with the same tokens only")
    return notes


def _samples(model: TextModel, tokenizer: Tokenizer, settings: Evaluate, seed: int) -> list[dict[str, str]]:
    samples, memory = [], make_memory(model, 1)
    for prompt in settings.sample.prompts:
        ids = [END_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids][-model.context + 1 :]
        wanted = settings.sample
        answer = generate(model, ids, wanted.tokens, temperature=wanted.temperature, seed=seed, end=END_ID, memory=memory)
        samples.append({"prompt": prompt, "text": decode(tokenizer, answer)})
    return samples
