"""Scorecards of a cross-validation's folds -> one: mean and spread of each figure, and figures over all records together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.core.project import Project
from treadle.data.columns import load_column
from treadle.data.schema import Schema
from treadle.data.targets.scalar import IGNORE, BinaryTarget, ClassTarget, LabelsTarget, NumberTarget
from treadle.evaluate.answers import HeadScores, Outputs, head_figures
from treadle.evaluate.metrics import weights
from treadle.spec.project import ProjectSpec
from treadle.store.artifacts import Artifact, Store, write_json

VERSION = 2


def pool_folds(project: Project, store: Store, corpus: Artifact, cards: Sequence[Artifact]) -> Artifact:
    """One scorecard of all ``cards``, in which each record was scored by a model that never saw it."""
    settings, seed = project.spec.evaluate, project.spec.seed
    making = store.making("scorecard", [card.id for card in cards], {"resamples": settings.resamples, "seed": seed}, VERSION, seed)
    if cached := making.cached():
        return cached
    heads = {}
    for name, head in cards[0].counts["heads"].items():
        rows = [card.counts["heads"][name] for card in cards]
        shared = [title for title in head["baselines"] if all(title in row["baselines"] for row in rows)]
        heads[name] = {
            "kind": head["kind"],
            "figures": {figure: _spread([row["metrics"][figure] for row in rows]) for figure in head["metrics"]},
            "baselines": {title: _beside([row["baselines"][title] for row in rows]) for title in shared},
            "pooled": _pooled(store, cards, name, settings.resamples, seed),
        }
    card = {
        "kind": "folds", "model": "", "dataset": corpus.id, "part": "folds", "folds": [card.id for card in cards],
        "records": sum(card.counts["records"] for card in cards), "sizes": [card.counts["records"] for card in cards],
        "split": split_words(project.spec), "heads": heads, "gate": [],
    }
    with making.draft() as draft:
        write_json(draft.path / "scorecard.json", card)
        draft.counts.update(card)
    return making.open()


def split_words(spec: ProjectSpec) -> str:
    """What parts the folds, for people."""
    if spec.evaluate.time:
        return f"by time: each fold is a stretch of {spec.evaluate.time!r}, and its model saw only what lies before"
    by = spec.data.split.by
    together = {"file": "records that are alike stay together", "folder": "records of one folder stay together"}
    words = f"by chance: {together.get(by, f'records of one {by!r} stay together')}"
    return words + (f", and every fold has like shares of each {spec.model.balanced_by!r}" if spec.model.balanced_by else "")


def _spread(figures: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean over the folds, and the standard deviation between them."""
    values = [figure["value"] for figure in figures]
    return {"mean": statistics.fmean(values), "spread": statistics.stdev(values), "folds": values}


def _beside(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A baseline's figures, and in how many folds the model was ahead of it."""
    found: dict[str, Any] = {figure: _spread([row[figure] for row in rows]) for figure in rows[0] if figure != "against"}
    if "against" in rows[0]:
        figure = rows[0]["against"]["figure"]
        sign = -1 if figure == "rmse" else 1
        changes = [row["against"]["value"] for row in rows]
        found["against"] = {
            "figure": figure, **_spread([row["against"] for row in rows]), "ahead": sum(sign * change > 0 for change in changes),
            "level": sum(change == 0 for change in changes),
        }
    return found


def _pooled(store: Store, cards: Sequence[Artifact], name: str, resamples: int, seed: int) -> dict[str, Any]:
    """Figures with intervals over the records of all folds; none for a kind of head whose outputs are not kept."""
    if not all((card.path / f"outputs.{name}.npy").exists() for card in cards):
        return {}
    targets, outputs, right = [], [], []
    for card in cards:
        dataset = store.open(card.counts["dataset"])
        targets.append(Schema.load(dataset.path).targets[name])
        outputs.append(np.load(card.path / f"outputs.{name}.npy", allow_pickle=False))
        right.append(np.asarray(load_column(dataset.path, "test", f"heads.{name}").values))
    joined, given, known = _one_target(targets, outputs, right)
    kind = str(cards[0].counts["heads"][name]["kind"])
    lost = np.isnan(known) if known.dtype.kind == "f" else known == IGNORE
    losses = np.where(lost.reshape(len(lost), -1).any(1), np.nan, 0.0)
    found = head_figures(HeadScores(kind, given, known, losses), joined, weights(len(known), resamples, seed))
    found.pop("loss")
    return {figure: value.as_dict() for figure, value in found.items()}


def _one_target(targets: Sequence[Any], outputs: Sequence[Outputs], right: Sequence[Outputs]) -> tuple[Any, Outputs, Outputs]:
    """Outputs and right answers of all folds as the first fold's target reads them: each fold learned its own order of classes, or
    its own mean, from its own train part."""
    first = targets[0]
    if isinstance(first, NumberTarget):
        def again(target: NumberTarget, values: Outputs) -> Outputs:
            return (values.astype(np.float64) * target.deviation + target.mean - first.mean) / first.deviation

        pairs = [(again(t, o), again(t, r)) for t, o, r in zip(targets, outputs, right, strict=True)]
    elif isinstance(first, BinaryTarget):
        pairs = [(o, r) if t.names == first.names else (1 - o, 1 - r) for t, o, r in zip(targets, outputs, right, strict=True)]
    else:
        pairs = _one_list(targets, outputs, right)
    return first, np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def _one_list(
    targets: Sequence[ClassTarget | LabelsTarget], outputs: Sequence[Outputs], right: Sequence[Outputs]
) -> list[tuple[Outputs, Outputs]]:
    """Of classes or labels: columns by name."""
    lists = [target.classes if isinstance(target, ClassTarget) else target.labels for target in targets]
    names = list(dict.fromkeys(name for found in lists for name in found))
    pairs = []
    for found, given, known in zip(lists, outputs, right, strict=True):
        at = np.array([names.index(name) for name in found])
        wide = np.zeros((len(given), len(names)))
        wide[:, at] = given
        if known.ndim == 1:
            pairs.append((wide, np.where(known >= 0, at[np.maximum(known, 0)], known)))
        else:
            flags = np.zeros((len(known), len(names)))
            flags[:, at] = known
            pairs.append((wide, flags))
    return pairs
