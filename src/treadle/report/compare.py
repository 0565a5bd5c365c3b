"""Several models side by side on one HTML page: their curves over each other, figures, time and cost, and the settings that differ.
Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import treadle
from treadle.core.project import Project
from treadle.report.charts import Series, both_widths, line_chart, number, smooth, thin
from treadle.report.facts import moment
from treadle.report.html import Html, join, keyed, table, tag
from treadle.report.page import document, write_page
from treadle.report.runs import Run, differences, find_runs
from treadle.report.spending import judge_spending
from treadle.spec.figures import LOWER
from treadle.spec.units import format_count, format_duration, format_figure, format_size, significant

_LONGEST, _NAME = 60, 14  # characters of a setting, and of a run's name in a chart


@dataclass(frozen=True)
class Comparison:
    """The page, and what stands on it as JSON values."""

    path: Path
    runs: Sequence[Run]

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path), "runs": [_summary(run) for run in self.runs],
            "differences": differences(self.runs), "notes": _notes(self.runs),
        }


def compare(project: Project | None, names: Sequence[str], path: Path | None = None) -> Comparison:
    """Write the page of the models that ``names`` name, to ``path`` or compare.html in the store of the first. Raises ``UserError``
    for what names no model."""
    runs = find_runs(project, names)
    target = path or (project or runs[0].project).store / "compare.html"
    return Comparison(write_page(target, _page(runs)), runs)


def _summary(run: Run) -> dict[str, Any]:
    counts = run.counts
    energy, money = run.cost
    spent = judge_spending(counts)
    return {
        "label": run.label, "project": run.project.spec.name, "model": run.model["id"], "made": run.model["created"],
        "unit": run.unit, "parameters": counts["parameters"], "steps": counts["steps"], "amount": counts["tokens"],
        "seconds": counts["seconds"], "per_second": counts["tokens_per_second"], "peak_memory": counts.get("peak_memory"),
        "flops_share": counts.get("flops_share"), "energy_kwh": significant(energy), "money": significant(money),
        "currency": run.project.spec.plan.currency, "loss": counts.get("loss"), "validation_loss": counts.get("validation_loss"),
        "best_validation_loss": min(_values(run, "validation_loss"), default=None), "figures": run.figures,
        "spent": spent.get("shares", {}),
    }


def _values(run: Run, key: str) -> list[float]:
    return [line[key] for line in run.history if key in line and math.isfinite(line[key])]


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before he holds one figure against another."""
    found = []
    if len({run.dataset for run in runs}) > 1:
        found.append("they learned from different data, so that their test parts may differ too")
    if len({run.unit for run in runs}) > 1:
        found.append("some count tokens and some records: their losses are of different things")
    elif len({json.dumps(value) for value in differences(runs).get("data.tokenizer.bpe", [])}) > 1:
        found.append("their tokens differ, so that losses per token do not compare; bits per byte do")
    if len({run.model["environment"].get("processor") for run in runs}) > 1:
        found.append("they were trained on different processors, so that their times do not compare")
    return found


def _page(runs: Sequence[Run]) -> str:
    title = " · ".join(run.label for run in runs)
    (_, named), *parts = compared(runs)
    sections = [tag("section", tag("h2", name), part) for name, part in parts]
    made = f"Made {moment(datetime.now(UTC).isoformat())} by Treadle {treadle.__version__}."
    return document(f"compared: {title}", [tag("header", tag("h1", title), named), tag("main", *sections), tag("footer", made)])


def compared(runs: Sequence[Run]) -> list[tuple[str, Html]]:
    """Title and content of each part of a comparison; the first, without a title, names the runs."""
    rows = [
        [keyed(run.label, colour), run.project.spec.name, tag("code", run.model["id"]),
         moment(run.model["created"])]
        for colour, run in enumerate(runs, 1)
    ]
    notes = tag("p", *(f"{note[:1].upper()}{note[1:]}. " for note in _notes(runs)), class_="warns") if _notes(runs) else ""
    return [
        ("", join([notes, table(["", "project", "model", "made"], rows, stacks=True)])), ("How they learned", _curves(runs)),
        ("How good they are", _figures(runs)), ("What they took", _costs(runs)), ("What differs", _differing(runs)),
    ]


def _curves(runs: Sequence[Run]) -> Html:
    if not any(run.history for run in runs):
        return tag("p", "No history of these trainings can be read.", class_="missing")
    alike = len({run.unit for run in runs}) == 1
    key, unit = ("tokens", runs[0].unit) if alike else ("step", "steps")
    axis = "loss, nats per token" if alike and unit == "tokens" else "loss"
    longest = max((run.counts["seconds"] for run in runs), default=0.0)
    name, seconds = next((pair for pair in (("hours", 3600.0), ("minutes", 60.0)) if longest >= 2 * pair[1]), ("seconds", 1.0))
    note = "Points: validation. Faint: training, its running mean, from where it is in reach of the validation."
    return join([
        tag("h3", f"Against {unit}"), _chart(runs, key, unit, axis, format_count),
        tag("h3", "Against time"), _chart(runs, "seconds", f"{name} of training", axis, number, seconds),
        tag("p", note, class_="detail"),
    ])


def _chart(runs: Sequence[Run], key: str, x_label: str, axis: str, show: Callable[[float], str], scale: float = 1.0) -> Html:
    """The runs' losses over ``key``, of which ``scale`` is one ``x_label``."""
    highest = max((max(_values(run, "validation_loss"), default=0.0) for run in runs), default=0.0) or math.inf
    series: list[Series] = []
    for colour, run in enumerate(runs, 1):
        trained = smooth(thin([(line[key] / scale, line["loss"]) for line in run.history if "loss" in line]))
        seen = [(line[key] / scale, line["validation_loss"]) for line in run.history if "validation_loss" in line]
        name = run.label if len(run.label) <= _NAME else f"{run.label[:_NAME - 1]}…"
        near = [(x, y) for x, y in trained if y <= highest]
        series += [Series("" if seen else name, near, colour, "faint" if seen else "line"), Series(name, seen, colour, "dots")]
    return tag("figure", both_widths(lambda width: line_chart(series, f"Loss, {x_label}", x_label, axis, width, 300, show)))


def _figures(runs: Sequence[Run]) -> Html:
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    if not names:
        return tag("p", "None of them has been evaluated.", class_="missing")
    rows = [[name, *_marked(name, [run.figures.get(name) for run in runs])] for name in names]
    note = "With 95% intervals. Bold: the best whose interval keeps clear of all the others'."
    return join([_table(runs, rows), tag("p", note, class_="detail")])


def _marked(name: str, values: Sequence[Mapping[str, float] | None]) -> list[Html]:
    """Each value with its interval; the best in bold where chance does not explain that it is."""
    lower = name.rpartition(".")[2] in LOWER
    known = [value for value in values if value and math.isfinite(value["value"])]
    best = min(known, key=lambda value: value["value"] if lower else -value["value"], default=None)
    clear = best is not None and len(known) > 1 and all(
        best["high"] < other["low"] if lower else best["low"] > other["high"] for other in known if other is not best
    )
    cells = []
    for value in values:
        if value is None or not math.isfinite(value["value"]):
            cells.append(Html("—"))
            continue
        interval = tag("small", f"{format_figure(value['low'])} to {format_figure(value['high'])}")
        cells.append(join([tag("b" if clear and value is best else "span", format_figure(value["value"])), " ", interval]))
    return cells


def _costs(runs: Sequence[Run]) -> Html:
    found = [_summary(run) for run in runs]
    parts = list(dict.fromkeys(part for one in found for part in one["spent"]))
    rows: list[Sequence[object]] = [
        ["parameters", *(format_count(one["parameters"]) for one in found)],
        ["trained on", *(f"{format_count(one['amount'])} {one['unit']}" for one in found)],
        ["steps", *(f"{one['steps']:,}" for one in found)],
        ["time", *(format_duration(one["seconds"]) for one in found)],
        ["speed", *(f"{format_count(significant(one['per_second'], 3))} {one['unit']}/s" for one in found)],
        ["share of the matrix peak", *(_share(one["flops_share"]) for one in found)],
        ["peak memory", *("—" if one["peak_memory"] is None else format_size(one["peak_memory"]) for one in found)],
        ["energy", *(f"{one['energy_kwh'] * 1000:.3g} Wh" for one in found)],
        ["money", *(f"{one['money']:.2g} {one['currency']}" for one in found)],
        ["validation loss", *(_loss(one["validation_loss"]) for one in found)],
        ["lowest validation loss", *(_loss(one["best_validation_loss"]) for one in found)],
    ]
    rows += [[f"{part}, share of time", *(_share(one["spent"].get(part)) for one in found)] for part in parts]
    note = "Energy and money by the prices of each project's 'plan:'."
    return join([_table(runs, rows), tag("p", note, class_="detail")])


def _differing(runs: Sequence[Run]) -> Html:
    rows = [[tag("code", key), *(_setting(value) for value in row)] for key, row in differences(runs).items()]
    return _table(runs, rows, numeric=False) if rows else tag("p", "They have the very same settings and data.")


def _setting(value: Any) -> str:
    text = "—" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _loss(value: float | None) -> str:
    return "—" if value is None else format_figure(value)


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _table(runs: Sequence[Run], rows: Sequence[Sequence[object]], numeric: bool = True) -> Html:
    return table(["", *(run.label for run in runs)], rows, numeric=range(1, len(runs) + 1) if numeric else (), stacks=True)
