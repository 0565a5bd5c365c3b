"""How well the items that follow were foretold, and by whom: most popular, and item-kNN. N records, V items.

The protocol: of each history of the test part the last event is asked for, from all that came before it. Every item of the training
vocabulary that the history does not hold yet is a candidate (none is sampled away: Krichene and Rendle 2020); an item that training
never saw, or counts as rare, is a miss for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.parquet as pq

from treadle.core.progress import say
from treadle.data.columns import Array, Column, load_column
from treadle.data.schema import Schema
from treadle.data.targets.items import NextItemTarget
from treadle.evaluate.metrics import Figure, Floats, ratio
from treadle.store.artifacts import Artifact

CUT = 10
NEIGHBOURS = 100
_OWN = 3  # ids below are no items


def item_figures(outputs: Array, targets: Array, target: NextItemTarget, drawn: Floats) -> dict[str, Figure]:
    """hit@10: share of records whose item is among the ten likeliest. ndcg@10: 1 / log2(1 + its rank) where it is, else 0 (Jarvelin
    and Kekalainen 2002). ``outputs`` (N, K, 2) are items, the likeliest first, and probabilities; ``targets`` (N, 1)."""
    gain = 1 - missed_gain(outputs, targets, target)
    ones = np.ones(len(gain))
    return {"hit@10": ratio((gain > 0).astype(np.float64), ones, drawn), "ndcg@10": ratio(gain, ones, drawn)}


def missed_gain(outputs: Array, targets: Array, target: NextItemTarget) -> Floats:
    """1 - ndcg@10 of each record (N,)."""
    listed = (outputs[:, :CUT, 0] == targets[:, :1]) & (outputs[:, :CUT, 1] > 0)  # (N, up to 10)
    found: Floats = 1 - (listed / np.log2(np.arange(2, listed.shape[1] + 2))).sum(1)
    return found


def recommenders(dataset: Artifact, schema: Schema, scores: Mapping[str, object]) -> dict[str, dict[str, Array]]:
    """Head -> baseline's name -> what it lists for each record of the test part (N, 10, 2), under the model's own rules."""
    targets = {name: schema.targets[name] for name in scores}
    return {name: _listed(dataset, target, name) for name, target in targets.items() if isinstance(target, NextItemTarget)}


def _listed(dataset: Artifact, target: NextItemTarget, head: str) -> dict[str, Array]:
    name, repeats = target.history.name, target.settings.repeats
    seen = load_column(dataset.path, "test", f"inputs.{name}")
    histories = [np.asarray(seen.values[a:b, 0]) for a, b in zip(seen.starts[:-1], seen.starts[1:], strict=True)]  # type: ignore[index]
    size = len(target.history.vocabulary)
    users, items = _training(dataset, name, head)
    counts = np.bincount(items, minlength=size).astype(np.float64)
    found = {"most popular": np.stack([_list(counts, history, repeats) for history in histories])}
    try:
        from scipy.sparse import csr_array
    except ImportError:
        say("note: the baseline item-kNN is left out: it needs scipy (pip install 'treadle[evaluate]')")
        return found
    matrix = csr_array((np.ones(len(users)), (users, items)), shape=(int(users.max(initial=0)) + 1, size))
    near = _neighbours(matrix / np.maximum(np.sqrt(matrix.sum(0)), 1e-12))  # binary columns: their norm is the root of their sum
    profiles = [np.unique(history[history >= _OWN]) for history in histories]
    scores = [np.asarray(near[profile].sum(0)).ravel() for profile in profiles]
    found["item-kNN"] = np.stack([_list(score, history, repeats) for score, history in zip(scores, histories, strict=True)])
    return found


def _training(dataset: Artifact, name: str, head: str) -> tuple[Array, Array]:
    """(user, item) pairs of the train part, each once: what was read and what followed."""
    sources = pq.read_table(dataset.path / "train.records.parquet")["source"].to_pylist()  # two users may have equal histories
    numbers = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    owner = np.array([numbers[source] for source in sources])
    read, follow = (load_column(dataset.path, "train", key) for key in (f"inputs.{name}", f"heads.{head}"))
    pairs = np.concatenate([_owned(owner, read, np.asarray(read.values[:, 0])), _owned(owner, follow, np.asarray(follow.values))])
    pairs = np.unique(pairs[pairs[:, 1] >= _OWN], axis=0)
    return pairs[:, 0], pairs[:, 1]


def _owned(owner: Array, column: Column, items: Array) -> Array:
    return np.stack([np.repeat(owner, column.lengths()), items], 1)  # type: ignore[arg-type]


def _neighbours(columns: Array) -> Array:
    """Cosine similarities of the columns (V, V, sparse): of each item its ``NEIGHBOURS`` nearest others (Sarwar et al. 2001)."""
    from scipy.sparse import csr_array

    similar = csr_array(columns.T @ columns)
    similar.setdiag(0.0)
    similar.sort_indices()
    similar.data = similar.data.round(9)  # equal ones are ordered by item, not by their last bits
    kept, places, starts = [], [], [0]
    for a, b in zip(similar.indptr[:-1], similar.indptr[1:], strict=True):
        order = np.argsort(-similar.data[a:b], kind="stable")[:NEIGHBOURS]
        kept.append(similar.data[a:b][order])
        places.append(similar.indices[a:b][order])
        starts.append(starts[-1] + len(order))
    found: Array = csr_array((np.concatenate(kept), np.concatenate(places), starts), shape=similar.shape)
    return found


def _list(scores: Floats, history: Array, repeats: bool) -> Array:
    """The ten items of the highest scores, ties to the lower id, as (10, 2): item, and its share of all scores."""
    scores = scores.copy()
    scores[:_OWN] = 0.0
    if not repeats:
        scores[history] = 0.0
    top = np.argsort(-scores, kind="stable")[:CUT]
    return np.stack([top.astype(np.float64), scores[top] / max(scores.sum(), 1e-12)], 1)
