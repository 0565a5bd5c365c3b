"""What was trained: the one that is going on with its curve, all the others, several compared, and how good each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from treadle.console.desk import HEADERS, Desk
from treadle.core.errors import RequestError
from treadle.report import origins, sections
from treadle.report.charts import Series, both_widths, line_chart, smooth, thin
from treadle.report.compare import compared
from treadle.report.facts import artifact_facts
from treadle.report.gather import Facts, gather
from treadle.report.html import Html, tag
from treadle.report.runs import MOST, find_runs
from treadle.report.scorecards import glance
from treadle.report.watch import Seen, Watcher
from treadle.spec.units import format_count, format_duration

_STATES = {
    "running": "is being trained", "stopped": "was stopped; 'treadle run' goes on with it", "done": "is the last one trained",
}
_PARTS = (
    ("How it learned", sections.learning), ("Is it good?", sections.scorecard), ("Where the time went", sections.time),
    ("What it writes", sections.samples), ("What is served", sections.compression), ("Settings and environment", origins.settings),
)


def add(desk: Desk) -> None:
    """Runs, one of them, a comparison, scorecards."""

    def runs(request: Request) -> Response:
        facts = gather(desk.project, desk.store, desk.ledger)
        models = [_model(facts, manifest) for manifest in facts.manifests.values() if manifest["kind"] == "model"]
        given = [{**run, "why": (run["detail"] or {}).get("error", "")} for run in facts.runs]
        return desk.page(
            request, "runs.html", "Runs", training=_training(desk), models=models[::-1], runs=given[::-1][:100], most=MOST
        )

    def live(request: Request) -> Response:
        return HTMLResponse(desk.render("training.html", training=_training(desk)), headers=HEADERS)

    def one(request: Request) -> Response:
        facts = gather(desk.project, desk.store, desk.ledger, of=request.path_params["model"])
        written = desk.project.spec.model.predicts_text
        parts = [(title, make(facts)) for title, make in _PARTS if written or make is not sections.samples]
        return desk.page(request, "parts.html", request.path_params["model"], parts=parts, back=("/console/runs", "All runs"))

    def compare(request: Request) -> Response:
        names = request.query_params.getlist("of")
        known = {manifest["id"] for manifest in desk.store.all() if manifest["kind"] == "model"}
        if not 2 <= len(names) <= MOST:
            raise RequestError(f"{len(names)} chosen; from 2 to {MOST} can be compared", cure="tick them under Runs")
        if unknown := [name for name in names if name not in known]:  # a folder's name, say, which the command line would take
            raise RequestError(f"there is no model {unknown[0][:80]!r}", status=404, cure="tick those to compare under Runs")
        found = compared(find_runs(desk.project, names))
        return desk.page(request, "parts.html", "Compared", parts=found, back=("/console/runs", "All runs"))

    def scorecards(request: Request) -> Response:
        facts = gather(desk.project, desk.store, desk.ledger)
        models = [_model(facts, manifest) for manifest in facts.manifests.values() if manifest["kind"] == "model"]
        return desk.page(
            request, "scorecards.html", "Scorecards", shown=facts.model["id"] if facts.model else "", live=facts.live,
            card=sections.scorecard(facts), models=models[::-1],
        )

    desk.get("/console/runs", runs)
    desk.get("/console/runs/live", live)
    desk.get("/console/runs/{model}", one)
    desk.get("/console/compare", compare)
    desk.get("/console/scorecards", scorecards)


def _model(facts: Facts, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A model as its row shows it: the versions that it was served as, and the figures that one asks for first."""
    packages = {id for id, other in facts.manifests.items() if other["kind"] == "package" and manifest["id"] in other["parents"]}
    versions = sorted({row["version"] for row in facts.deployments if row["package"] in packages})
    cards = [
        other for other in facts.manifests.values() if other["kind"] == "scorecard"
        and other["counts"].get("model") == manifest["id"] and other["counts"].get("dataset") in manifest["parents"][:2]
    ]
    figures = glance(replace(facts, model=manifest, scorecards=cards[-1:]))
    return {"id": manifest["id"], "made": artifact_facts(manifest), "versions": versions, "figures": figures}


def _training(desk: Desk) -> dict[str, Any]:
    """The training that goes on, or the last one."""
    seen = Watcher(desk.store.root).look()
    if seen.state == "none":
        words = "Nothing was trained yet: 'treadle run' does."
        return {"state": "none", "words": words, "curve": "", "facts": [], "progress": None}
    found = seen.as_dict()
    facts = list(seen.facts)
    if seen.state != "done" and seen.steps:
        whole = f" of {seen.note['steps']}" if seen.note.get("steps") else f", budget {seen.note.get('budget')}"
        left = f", {format_duration(seen.left)} left" if seen.left is not None else ""
        facts = [
            f"{seen.progress:.0%}: step {found['step']}{whole}, {format_duration(found['seconds'])} so far{left}",
            f"loss {found['loss']:.4g}, {format_count(found['per_second'])} {seen.note.get('unit', 'tokens')}/s, "
            f"rate {found['learning_rate']:.3g}",
        ]
        if found["validation_loss"] is not None:
            best, step = found["best_validation_loss"], found["best_step"]
            facts.append(f"validation {found['validation_loss']:.4g}, the lowest {best:.4g} at step {step}")
    return {
        "state": seen.state, "words": f"{seen.model} {_STATES[seen.state]}.", "curve": _curve(seen), "facts": facts,
        "progress": seen.progress if seen.state == "running" else None,
    }


def _curve(seen: Seen) -> Html:
    loss = [(float(line["tokens"]), float(line["loss"])) for line in seen.steps]
    points = [(float(line["tokens"]), float(line["validation_loss"])) for line in seen.history if "validation_loss" in line]
    if not loss:
        return Html("")
    unit = str(seen.note.get("unit", "tokens"))
    series = [Series("", loss, 1, "faint"), Series("training", smooth(thin(loss)), 1), Series("validation", points, 2, "dots")]
    title = "Loss over training"
    return tag("figure", both_widths(lambda width: line_chart(series, title, unit, "loss", width, 300, format_count)))
