"""Models that are to be compared: found by version, by id or by a project's folder, each with all that a comparison asks of it.
Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from treadle.core.errors import UserError
from treadle.core.project import Project, load_project
from treadle.report.gather import Manifest, read_history
from treadle.store.artifacts import Store, flat
from treadle.store.ledger import Ledger

MOST = 6
"""Models on a page: as many as it has colours."""


@dataclass(frozen=True)
class Run:
    """A model with its training, its scorecard on the data that it was trained on, and its project."""

    label: str
    project: Project
    manifests: Mapping[str, Manifest]
    """Of its store, by id."""
    model: Manifest
    card: Manifest | None
    history: Sequence[Mapping[str, float]]

    @property
    def counts(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.model["counts"]
        return found

    @property
    def unit(self) -> str:
        return str(self.counts.get("unit", "tokens"))

    @property
    def dataset(self) -> str:
        """The id of the one that it was first trained on."""
        return next((parent for parent in self.model["parents"] if parent.startswith("dataset-")), "")

    @property
    def cost(self) -> tuple[float, float]:
        """kWh and money of its training, at the project's prices of today."""
        return self.project.spec.plan.cost(self.counts["seconds"])

    @property
    def settings(self) -> dict[str, Any]:
        """All that it follows from, by names with dots: its own, its data's, the machine's."""
        found = flat(self.model["config"])
        for known in ("budget", "batch", "learning_rate"):  # as it was chosen or derived, whatever was given
            if known in found:
                found.pop(f"train.{known}", None)
        for id in [self.dataset, *self.manifests.get(self.dataset, {"parents": []})["parents"]]:
            if id in self.manifests:
                found |= flat(self.manifests[id]["config"], "data.")
        return found | flat(self.model["environment"], "machine.")

    @property
    def figures(self) -> dict[str, Mapping[str, float]]:
        """Of the scorecard, each with its interval: ``bits_per_byte``, or ``HEAD.accuracy`` where heads have their own."""
        if self.card is None:
            return {}
        counts = self.card["counts"]
        if "heads" not in counts:
            return dict(counts["metrics"])
        heads = counts["heads"].items()
        return {f"{name}.{metric}": value for name, head in heads for metric, value in head["metrics"].items()}


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Setting -> its value in each run, None where a run has none; of those that are not alike in all."""
    settings = [run.settings for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found)
    rows = {key: [found.get(key) for found in settings] for key in keys}
    return {key: row for key, row in rows.items() if any(json.dumps(value) != json.dumps(row[0]) for value in row)}


def find_runs(project: Project | None, names: Sequence[str]) -> list[Run]:
    """What ``names`` name; versions and ids are those of ``project``. Raises ``UserError``."""
    if not 2 <= len(names) <= MOST:
        cure = "name versions, models' ids, or projects' folders"
        raise UserError(f"{len(names)} given; from 2 to {MOST} can be compared", cure=cure)
    found = [_find(project, name) for name in names]
    labels = [run.label for run in found]
    if len(set(labels)) < len(labels):  # the same folder's name twice, or the same thing
        found = [replace(run, label=f"{run.label} {number}") for number, run in enumerate(found, 1)]
    return found


def _find(project: Project | None, name: str) -> Run:
    path = Path(name)
    if (path / "treadle.yaml").is_file() or (path.suffix in (".yaml", ".yml") and path.is_file()):
        return _of_folder(load_project(path), name)
    if project is None:
        cure = "name folders of projects, or the project that it belongs to with -f"
        raise UserError(f"{name!r} is no project's folder, and there is no treadle.yaml here", cure=cure)
    manifests = {manifest["id"]: manifest for manifest in Store(project.store).all()}
    if match := re.fullmatch(r"[vV]?(\d{1,9})", name):
        packages = {row["version"]: row["package"] for row in _deployments(project)}
        number = int(match[1])
        if packages.get(number) not in manifests:
            cure = f"versions: {', '.join(f'v{known}' for known in packages)}" if packages else "'treadle run' makes the first"
            raise UserError(f"there is no version {number}", cure=cure)
        return _run(f"v{number}", project, manifests, packages[number])
    fitting = [id for id in manifests if id.startswith(name) and id.startswith(("model-", "package-"))]
    if len(fitting) != 1 and name not in fitting:
        known = [id for id in manifests if id.startswith("model-")]
        cure = f"models: {', '.join(known)}" if known else "'treadle run' makes the first"
        raise UserError(f"{len(fitting) or 'no'} models are named {name!r}", cure=cure)
    id = name if name in fitting else fitting[0]
    return _run(id.partition("-")[2][:8], project, manifests, id)


def _of_folder(project: Project, name: str) -> Run:
    """The live version of a project, or else its newest model."""
    manifests = {manifest["id"]: manifest for manifest in Store(project.store).all()}
    live = [row["package"] for row in _deployments(project)][-1:]
    newest = [id for id in manifests if id.startswith("model-")][-1:]
    if not live and not newest:
        raise UserError(f"{name} holds no model yet", cure=f"treadle run -f {name}")
    return _run(project.folder.name, project, manifests, (live or newest)[0])


def _run(label: str, project: Project, manifests: Mapping[str, Manifest], id: str) -> Run:
    model = manifests[id]
    if id.startswith("package-"):
        model = manifests[next(parent for parent in model["parents"] if parent.startswith("model-"))]
    dataset = next((parent for parent in model["parents"] if parent.startswith("dataset-")), "")
    cards = [
        manifest for manifest in manifests.values() if manifest["kind"] == "scorecard"
        and manifest["counts"].get("model") == model["id"] and manifest["counts"].get("dataset") == dataset
    ]
    history = read_history(Store(project.store), model)
    return Run(label, project, manifests, model, cards[-1] if cards else None, history)


def _deployments(project: Project) -> list[Mapping[str, Any]]:
    if project.ledger_url is None and not (project.store / "ledger.db").exists():
        return []
    ledger = Ledger(project.store, project.ledger_url)
    try:
        return [dict(row) for row in ledger.deployments()]
    finally:
        ledger.close()
