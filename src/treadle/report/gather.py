"""What the report tells of: the version that is live, or the newest of what there is, with everything behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.core.errors import UserError
from treadle.core.project import Project
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger
from treadle.store.standing import standing

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Manifests are None where that stage has not been reached."""

    project: Project
    manifests: Mapping[str, Manifest]
    """Every whole artifact by id, oldest first."""
    corpus: Manifest | None
    dataset: Manifest | None
    model: Manifest | None
    package: Manifest | None
    scorecards: Sequence[Manifest]
    """Of ``model``: that on ``dataset`` first, then those on held-out feedback."""
    earlier: Mapping[str, Manifest]
    """By id of one of ``scorecards``: that of the model that this one was improved from, on the same dataset."""
    folds: Manifest | None
    """The newest scorecard of a cross-validation of ``corpus``."""
    sheets: Mapping[str, bytes]
    """Input's name -> a PNG of what training makes of a few of its pictures."""
    wrong: Mapping[str, bytes]
    """Input's name -> a PNG of the validation pictures that the model gets most wrong, with what it says and what is right."""
    history: Sequence[Mapping[str, float]]
    """The lines of the model's history.jsonl."""
    deployments: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    feedback: Sequence[Mapping[str, Any]]
    totals: Mapping[str, int]
    rollouts: Sequence[Mapping[str, Any]] = ()
    """Every start, change and end of a candidate, oldest first."""
    candidate: Sequence[str] = ()
    """How the one that stands beside the live version does, in lines; none: nothing does."""

    @property
    def live(self) -> Mapping[str, Any] | None:
        return self.deployments[-1] if self.deployments else None

    @property
    def trainings(self) -> list[Manifest]:
        """The model, and before it those that it was improved from, the first training first."""
        found: list[Manifest] = []
        model = self.model
        while model:
            found.insert(0, model)
            model = _improved_from(self.manifests, model)
        return found

    @property
    def taught(self) -> list[Manifest]:
        """The corpora of users' answers behind the model, of each round of improvement one."""
        datasets = [_parents(self.manifests, model, "dataset")[-1:] for model in self.trainings[1:]]
        return [corpus for (dataset,) in datasets if (corpus := _parent(self.manifests, dataset, "corpus"))]

    @property
    def said(self) -> list[Mapping[str, Any]]:
        """The newest feedback on each answer, but of those where all was taken back."""
        newest = {row["answer"]: row for row in self.feedback}
        return [row for row in newest.values() if row["rating"] is not None or row["edited"] is not None]

    @property
    def comparison(self) -> Mapping[str, Any] | None:
        """Predicted beside measured, of the newest run that has both."""
        found = [run["detail"]["plan"] for run in self.runs if (run["detail"] or {}).get("plan")]
        return found[-1] if found else None


def gather(project: Project, store: Store, ledger: Ledger, of: str | None = None) -> Facts:
    """Read manifests and the ledger. ``of`` names a model that it is to be about, whatever is live.

    Raises ``ArtifactError`` where a manifest is damaged, ``UserError`` where ``of`` is no model.
    """
    manifests = {manifest["id"]: manifest for manifest in store.all()}
    deployments = [dict(row) for row in ledger.deployments()]
    live = manifests.get(deployments[-1]["package"]) if deployments else None
    package = live or _newest(manifests, "package")
    model = _parent(manifests, package, "model") or _newest(manifests, "model")
    if of is not None:
        model, package = manifests.get(of), _packed(manifests, of)
        if model is None or model["kind"] != "model":
            raise UserError(f"there is no model {of!r}", cure="'treadle report' lists what there is")
    dataset = _parent(manifests, model, "dataset") or _newest(manifests, "dataset")
    corpus = _parent(manifests, dataset, "corpus") or _newest(manifests, "corpus")
    every = [m for m in manifests.values() if m["kind"] == "scorecard" and model and m["counts"].get("model") == model["id"]]
    packed = _parent(manifests, package, "scorecard")
    # Of several on one dataset, measured under different settings, that of the package, or else the newest.
    cards = list({card["counts"]["dataset"]: card for card in (*every, *([packed] if packed in every else []))}.values())
    cards.sort(key=lambda card: not (dataset and card["counts"]["dataset"] == dataset["id"]))
    return Facts(
        project, manifests, corpus, dataset, model, package, cards, _earlier(manifests, model, cards), _folds(manifests, corpus),
        _pictures(store, dataset, "augmented."), _pictures(store, model, "most_wrong."), read_history(store, model), deployments,
        [dict(row) for row in ledger.all_runs()], [dict(row) for row in ledger.all_feedback()], ledger.totals(),
        [dict(row) for row in ledger.all_rollouts()], standing(ledger).lines() if ledger.rollout() else (),
    )


def _packed(manifests: Mapping[str, Manifest], model: str) -> Manifest | None:
    """The newest package of ``model``."""
    found = [manifest for manifest in manifests.values() if manifest["kind"] == "package" and model in manifest["parents"]]
    return found[-1] if found else None


def _folds(manifests: Mapping[str, Manifest], corpus: Manifest | None) -> Manifest | None:
    found = [m for m in manifests.values() if m["kind"] == "scorecard" and m["counts"].get("kind") == "folds"]
    return next((card for card in reversed(found) if corpus and card["counts"]["dataset"] == corpus["id"]), None)


def ancestry(manifests: Mapping[str, Manifest], roots: Sequence[str]) -> list[str]:
    """``roots`` and everything that they were made from, as far as it is in the store, oldest first."""
    found: set[str] = set()
    waiting = [root for root in roots if root in manifests]
    while waiting:
        id = waiting.pop()
        if id not in found:
            found.add(id)
            waiting += [parent for parent in manifests[id]["parents"] if parent in manifests]
    return [id for id in manifests if id in found]


def _newest(manifests: Mapping[str, Manifest], kind: str) -> Manifest | None:
    found = [manifest for manifest in manifests.values() if manifest["kind"] == kind]
    return found[-1] if found else None


def _parent(manifests: Mapping[str, Manifest], child: Manifest | None, kind: str) -> Manifest | None:
    """The first parent of ``kind``: a model's own dataset, not that of its feedback."""
    return next(iter(_parents(manifests, child, kind)), None)


def _improved_from(manifests: Mapping[str, Manifest], model: Manifest | None) -> Manifest | None:
    """The model that users' feedback improved to this one. One that a first training went on from stands behind its dataset."""
    first = model["parents"][0] if model and model["parents"] else ""
    return manifests.get(first) if first.startswith("model-") else None


def _parents(manifests: Mapping[str, Manifest], child: Manifest | None, kind: str) -> list[Manifest]:
    """Those that are in the store."""
    parents = [parent for parent in (child["parents"] if child else ()) if parent.startswith(f"{kind}-")]
    return [manifests[parent] for parent in parents if parent in manifests]


def _earlier(manifests: Mapping[str, Manifest], model: Manifest | None, cards: Sequence[Manifest]) -> dict[str, Manifest]:
    base = _improved_from(manifests, model)
    found = {}
    for card in cards:
        for other in manifests.values():
            same = other["kind"] == "scorecard" and other["counts"]["dataset"] == card["counts"]["dataset"]
            if base and same and other["counts"]["model"] == base["id"]:
                found[card["id"]] = other
    return found


def _pictures(store: Store, manifest: Manifest | None, before: str) -> dict[str, bytes]:
    """The PNGs of an artifact whose names begin so, by the rest of their names."""
    found = sorted(store.folder(manifest["id"]).glob(f"{before}*.png")) if manifest else []
    return {path.name.removeprefix(before).removesuffix(".png"): path.read_bytes() for path in found}


def read_history(store: Store, model: Manifest | None) -> list[Mapping[str, float]]:
    """Lines that are whole; a missing or damaged file gives fewer or none, and the report says so."""
    lines: list[Mapping[str, float]] = []
    if model is None:
        return lines
    try:
        text = (store.folder(model["id"]) / "history.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            lines.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return [line for line in lines if isinstance(line, dict) and "step" in line and "tokens" in line]
