"""Is it good? A model's figures with their intervals, beside the baselines, the gate, and the version that it was improved from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.report.charts import Whisker, both_widths, whisker_chart
from treadle.report.gather import Facts, Manifest
from treadle.report.html import Html, join, table, tag, text
from treadle.report.verdicts import fold_standing, standing
from treadle.spec.units import format_count, format_figure

_LANGUAGE = {
    "bits_per_byte": ("bits per byte", "surprise per byte of text; lower is better"),
    "loss": ("loss", "nats per token; lower is better"),
    "perplexity": ("perplexity", "as if choosing among so many tokens; lower is better"),
    "accuracy": ("accuracy", "next tokens guessed right; higher is better"),
}
_RECORDS = {
    "accuracy": "share answered right; higher is better",
    "map50": "mean over labels of the average precision, where boxes overlap by half; higher is better",
    "map": "the same, averaged over overlaps of 50% to 95%", "precision": "of what it says, the share that is right",
    "recall": "of what is there, the share that it finds", "f1": "harmonic mean of precision and recall",
    "token_accuracy": "share of tokens whose tag is right, most of them outside any span",
    "auc": "chance that a yes is ranked above a no", "rmse": "root of the mean squared error, in the data's unit; lower is better",
    "mae": "mean absolute error, in the data's unit; lower is better", "mse": "mean squared error; lower is better",
    "r2": "share of the variance that is explained", "character_error": "wrong characters per right one; lower is better",
    "word_error": "wrong words per right one; lower is better", "ndcg@10": "how high the right one stands among the first ten",
    "hit@10": "how often the right one is among the first ten",
    "spearman": "rank correlation of the cosine with the answer; higher is better",
    "recall@1": "how often the right one comes first", "recall@10": "how often the right one is among the first ten",
    "perplexity": "as if choosing among so many tokens; lower is better", "loss": "what training lowers",
}
"""Figures of heads with their meaning. The first of them that a head has is the one that it is judged by at a glance."""
_FIRST = {"tags": "f1"}
"""Kind of head -> the figure that it is judged by, where that is another."""
_MOST_FOLDS = 12
"""More are not drawn, only written."""
_IN_UNITS = frozenset({"rmse", "mae", "mse"})


def scorecard(facts: Facts) -> Html:
    """Every scorecard of the model, and that of a cross-validation."""
    parts: list[Html] = []
    for card in facts.scorecards:
        counts = card["counts"]
        own = facts.dataset is not None and counts["dataset"] == facts.dataset["id"]
        if len(facts.scorecards) > 1:
            parts.append(tag("h3", "On the test part" if own else "On held-out feedback"))
        earlier = facts.earlier.get(card["id"])
        records = counts.get("kind") == "records"
        parts += _heads(facts, counts, earlier) if records else _language(counts, earlier, own)
    if facts.folds:
        parts += _folds(facts, facts.folds["counts"])
    return join(parts)


def glance(facts: Facts) -> list[tuple[str, str, str]]:
    """(name, value, interval) of the figures that one asks for first: of each head one, of four heads at most."""
    if not facts.scorecards:
        return []
    counts = facts.scorecards[0]["counts"]
    if counts.get("kind") == "records":
        found = [(f"{name}: {main(head)}", main(head), head["metrics"]) for name, head in _ordered(facts, counts)[:4]]
    else:
        found = [("bits per byte", "bits_per_byte", counts["metrics"])]
    return [(name, shown(key, figures[key]["value"]), f"95%: {interval(key, figures[key])}") for name, key, figures in found]


def _ordered(facts: Facts, counts: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The heads as the project's file has them."""
    order = list(facts.project.spec.model.heads)
    return sorted(counts["heads"].items(), key=lambda pair: [*order, pair[0]].index(pair[0]))


def main(head: Mapping[str, Any]) -> str:
    """The figure that this head is judged by at a glance."""
    return _FIRST.get(head["kind"]) or next((name for name in _RECORDS if name in head["metrics"]), "loss")


def shown(name: str, value: float) -> str:
    """Three digits after the point, or four that count where the data have a unit; a dash for what cannot be said."""
    if not math.isfinite(value):
        return "—"
    if name in _IN_UNITS:
        return format_figure(value) if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")
    digits = 1 if name == "perplexity" else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # never -0.000


def interval(name: str, figure: Mapping[str, float]) -> str:
    low, high = shown(name, figure["low"]), shown(name, figure["high"])
    return low if low == high == "—" else f"{low} to {high}"


# -- a language model -------------------------------------------------------------------------------------------------


def _language(counts: Mapping[str, Any], earlier: Manifest | None, own: bool) -> list[Html]:
    left = counts["left_out"]
    size = f"Scored on {counts['documents']} documents, {format_count(counts['tokens'])} tokens, that were never trained on"
    rest = f"; {left['documents']} more, {format_count(left['tokens'])} tokens, were left out" if left["documents"] else ""
    others = {name: row["bits_per_byte"] for name, row in counts["baselines"].items()}
    rows = [[_explained(name, meaning), *_cells(key, counts["metrics"][key])] for key, (name, meaning) in _LANGUAGE.items()]
    rows += [[_explained(f"{name} baseline", "bits per byte"), *_cells("bits_per_byte", row)] for name, row in others.items()]
    gate = counts["gate"] if own else []
    before = earlier["counts"]["metrics"] if earlier else {}
    return [
        _gate(gate), tag("p", f"{size}{rest}."), _verdict(counts["metrics"]["bits_per_byte"], others),
        _comparison("bits_per_byte", counts["metrics"], before, others, _bound(gate, "bits_per_byte")),
        table(["", "value", "95% interval"], rows, numeric=(1, 2)),
    ]


def _verdict(own: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> Html:
    """In words, how the model stands against each baseline: better or worse only where the intervals do not overlap."""
    found: dict[str, list[str]] = {"better than": [], "not told apart from": [], "worse than": []}
    for name, other in others.items():
        better, worse = own["high"] < other["low"], own["low"] > other["high"]
        found["better than" if better else "worse than" if worse else "not told apart from"].append(name)
    told = [f"{word} {' and '.join(names)}" for word, names in found.items() if names]
    return tag("p", f"In bits per byte it is {'; '.join(told)}.") if told else Html("")


# -- a model of records -----------------------------------------------------------------------------------------------


def _heads(facts: Facts, counts: Mapping[str, Any], earlier: Manifest | None) -> list[Html]:
    parts = [_gate(counts["gate"]), tag("p", f"Scored on {counts['records']:,} records that were never trained on.")]
    for name, head in _ordered(facts, counts):
        before = earlier["counts"]["heads"].get(name, {}) if earlier else {}
        parts += _head(name, head, before, counts["gate"])
    return parts


def _head(name: str, head: Mapping[str, Any], before: Mapping[str, Any], gate: list[Mapping[str, Any]]) -> list[Html]:
    key = main(head)
    others = {title: row[key] for title, row in head["baselines"].items() if key in row}
    known = f", {head['unanswered']:,} records without an answer" if head["unanswered"] else ""
    known += f", {head['unseen']:,} whose answer training never saw, counted as wrong" if head.get("unseen") else ""
    told = [tag("li", line[:1].upper() + line[1:]) for line in standing(head)]
    bound = _bound(gate, f"{name}.{key}") or _bound(gate, key)
    columns = {"this model": head["metrics"], **({"before improvement": before["metrics"]} if before else {}), **head["baselines"]}
    rows = [
        [_explained(metric, _RECORDS.get(metric, "")), *(_cell(metric, column.get(metric)) for column in columns.values())]
        for metric in sorted(head["metrics"], key=lambda metric: [*_RECORDS, metric].index(metric))
    ]
    return [
        tag("h4", name, tag("small", f"{head['kind']}{known}")), tag("ul", *told) if told else Html(""),
        _comparison(key, head["metrics"], before.get("metrics", {}), others, bound),
        table(["", *columns], rows, numeric=range(1, len(columns) + 1), stacks=True),
    ]


def _cell(name: str, figure: Mapping[str, float] | None) -> Html:
    return join([shown(name, figure["value"]), tag("small", interval(name, figure))]) if figure else Html("")


# -- a cross-validation ------------------------------------------------------------------------------------------------


def _folds(facts: Facts, counts: Mapping[str, Any]) -> list[Html]:
    """Each fold's figures, their mean and deviation, and what parts the folds."""
    cards = [facts.manifests[id]["counts"] for id in counts["folds"] if id in facts.manifests]
    how = f"{counts['records']:,} records, each scored by a model that never saw it. The folds are split {counts['split']}."
    parts = [tag("h3", f"Cross-validation in {len(counts['folds'])} folds"), tag("p", how)]
    for name, head in _ordered(facts, counts):
        parts += _fold_head(name, head, [card["heads"][name] for card in cards], counts["sizes"])
    return parts


def _fold_head(name: str, head: Mapping[str, Any], cards: list[Mapping[str, Any]], sizes: Sequence[int]) -> list[Html]:
    key = main({"kind": head["kind"], "metrics": head["figures"]})
    mean, spread = (head["figures"][key][of] for of in ("mean", "spread"))
    rows = [Whisker("mean \u00b1 deviation", mean, mean - spread, mean + spread, True)]
    for number, card in enumerate(cards, 1):
        figure = card["metrics"][key]
        rows.append(Whisker(f"fold {number}", figure["value"], figure["low"], figure["high"]))
    rows = [row for row in rows if math.isfinite(row.value + row.low + row.high)]
    shows = 2 < len(rows) <= _MOST_FOLDS + 1
    chart = both_widths(lambda width: whisker_chart(rows, f"{key} of each fold", key, width, None, lambda v: shown(key, v)))
    note = "Folds with 95% intervals; the mean with the standard deviation between folds."
    order = sorted(head["figures"], key=lambda metric: [*_RECORDS, metric].index(metric))
    table_rows = []
    for metric in order:
        figure, pooled = head["figures"][metric], head["pooled"].get(metric)
        both = f"{shown(metric, figure['mean'])} \u00b1 {shown(metric, figure['spread'])}"
        values = [shown(metric, value) for value in figure["folds"]]
        table_rows.append([metric, both, _cell(metric, pooled), *values])
    titles = [join([f"fold {number}", tag("small", f"{size:,} records")]) for number, size in enumerate(sizes, 1)]
    columns = ["", "mean \u00b1 deviation", "all together", *titles]
    told = [tag("li", line[:1].upper() + line[1:]) for line in fold_standing(head)]
    return [
        tag("h4", name, tag("small", head["kind"])), tag("ul", *told) if told else Html(""),
        tag("figure", chart, tag("figcaption", note)) if shows else Html(""),
        table(columns, table_rows, numeric=range(1, len(columns))),
    ]


# -- what both have ---------------------------------------------------------------------------------------------------


def _gate(rows: list[Mapping[str, Any]]) -> Html:
    told = []
    for row in rows:
        key = row["metric"].rpartition(".")[2]
        word = tag("b", "Passed" if row["passed"] else "Refused", class_="good" if row["passed"] else "bad")
        name = _LANGUAGE[key][0] if row["metric"] in _LANGUAGE else row["metric"]
        value = f"{shown(key, row['value'])} ({interval(key, row)})"
        told.append(tag("p", word, f": {name} {value}, the gate asks for {row['bound']}.", class_="gate"))
    return join(told)


def _bound(gate: list[Mapping[str, Any]], metric: str) -> tuple[str, float] | None:
    """The gate's line in a chart of ``metric``."""
    row = next((row for row in gate if row["metric"] == metric), None)
    return (f"gate {row['bound']}", float(str(row["bound"]).split()[-1])) if row else None


def _comparison(
    name: str, own: Mapping[str, Any], before: Mapping[str, Any], others: Mapping[str, Mapping[str, float]],
    bound: tuple[str, float] | None,
) -> Html:
    """One figure of this model, of the one that it was improved from, and of the baselines, the best of them first."""
    def row(title: str, value: Mapping[str, float], strong: bool = False) -> Whisker:
        return Whisker(title, value["value"], value["low"], value["high"], strong)

    lower = "lower is better" in (_LANGUAGE[name][1] if name == "bits_per_byte" else _RECORDS.get(name, ""))
    rows = [row("this model", own[name], True)]
    rows += sorted((row(title, value) for title, value in others.items()), key=lambda row: row.value if lower else -row.value)
    if name in before:
        rows.insert(1, row("before improvement", before[name]))
    rows = [row for row in rows if math.isfinite(row.value + row.low + row.high)]
    if len(rows) < 2:
        return Html("")
    title = _LANGUAGE[name][0] if name == "bits_per_byte" else name
    axis = f"{title}, 95% interval ({'lower' if lower else 'higher'} is better)"
    what = f"{title[:1].upper()}{title[1:]} of the model and of what it is compared with, with 95% intervals"
    return tag("figure", both_widths(lambda width: whisker_chart(rows, what, axis, width, bound, lambda v: shown(name, v))))


def _explained(name: str, meaning: str) -> Html:
    return join([text(name), tag("small", meaning)])


def _cells(name: str, value: Mapping[str, float]) -> list[str]:
    return [shown(name, value["value"]), interval(name, value)]
