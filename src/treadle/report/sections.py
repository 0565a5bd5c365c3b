"""The report's sections on the model: is it good, how it learned, what it says, what it was packed into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from treadle.report.charts import Series, Whisker, both_widths, line_chart, paired_bars, whisker_chart
from treadle.report.facts import figure, moment
from treadle.report.gather import Facts, Manifest
from treadle.report.html import Html, join, table, tag, text
from treadle.spec.units import format_count, format_duration, format_size

METRICS = {
    "bits_per_byte": ("bits per byte", "surprise per byte of text; lower is better", 3),
    "loss": ("loss", "nats per token; lower is better", 3),
    "perplexity": ("perplexity", "as if choosing among so many tokens; lower is better", 1),
    "accuracy": ("accuracy", "next tokens guessed right; higher is better", 3),
}


def missing(what: str, command: str) -> Html:
    """A sentence in place of a section's figures."""
    return tag("p", f"{what}; ", tag("code", command), " does that.", class_="missing")


def header(facts: Facts) -> Html:
    """Name, what is live, and the figures that one asks for first."""
    live, model, package = facts.live, facts.model, facts.package
    if live:
        state = f"Version {live['version']} is live since {moment(live['at'])}: {live['reason']}."
    else:
        state = "No version is live." if facts.manifests else "Nothing is made yet: 'treadle run' makes the first version."
    tiles = []
    if facts.scorecards:
        bits = facts.scorecards[0]["counts"]["metrics"]["bits_per_byte"]
        tiles.append(("bits per byte", f"{bits['value']:.3f}", f"95%: {bits['low']:.3f} to {bits['high']:.3f}"))
    if model:
        counts = model["counts"]
        tiles.append(("parameters", format_count(counts["parameters"]), _shape(counts.get("shape", {}))))
        tiles.append(("trained on", format_count(counts["tokens"]), f"tokens in {format_duration(counts['seconds'])}"))
    if package:
        counts = package["counts"]
        tiles.append(("package", format_size(counts["package"]["bytes"]), f"{counts['quantize']}, weights"))
        tiles.append(("speed", f"{counts['package']['tokens_per_second']:.0f}", "tokens/s, one stream"))
    if facts.totals.get("answers"):
        tiles.append(("answers", format_count(facts.totals["answers"]), f"{facts.totals['feedback']} with feedback"))
    cells = [tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", note))) for name, value, note in tiles]
    return tag("header", tag("h1", facts.project.spec.name), tag("p", state, class_="state"), tag("dl", *cells, class_="tiles"))


def scorecard(facts: Facts) -> Html:
    if not facts.scorecards:
        return missing("No model has been evaluated", "treadle run")
    parts: list[Html] = []
    for card in facts.scorecards:
        counts = card["counts"]
        own = facts.dataset is not None and counts["dataset"] == facts.dataset["id"]
        if len(facts.scorecards) > 1:
            parts.append(tag("h3", "On the test part" if own else "On held-out feedback"))
        earlier = facts.earlier.get(card["id"])
        gate = _gate(counts) if own else ""
        parts += [text(gate), _scope(counts), _comparison(counts, earlier, own), _metrics(counts)]
    return join(parts)


def learning(facts: Facts) -> Html:
    steps = [line for line in facts.history if "loss" in line]
    if not facts.model:
        return missing("No model has been trained", "treadle run")
    if not steps:
        return tag("p", "The history of this training cannot be read.", class_="missing")
    seen = [line for line in facts.history if "validation_loss" in line]
    loss = [(line["tokens"], line["loss"]) for line in steps]
    series = [
        Series("", loss, 1, "faint"), Series("training", _smooth(loss), 1),
        Series("validation", [(line["tokens"], line["validation_loss"]) for line in seen], 2, "dots"),
    ]
    chart = both_widths(
        lambda width: line_chart(series, "Loss over training", "tokens", "loss, nats per token", width, 300, format_count)
    )
    small = [
        _small(steps, "learning_rate", "learning rate", 3), _small(steps, "gradient_norm", "gradient norm before clipping", 4),
        _small(steps, "tokens_per_second", "tokens per second", 5),
    ]
    counts = facts.model["counts"]
    words = (
        f"{counts['steps']} steps, {format_count(counts['tokens'])} tokens in {format_duration(counts['seconds'])}, "
        f"{format_count(counts['tokens_per_second'])} tokens/s"
    )
    if counts.get("flops_share"):
        words += f": {counts['flops_share']:.0%} of the machine's measured matrix peak"
    note = "Faint: every step. Solid: its running mean. Points: the validation part."
    return join([tag("p", words + "."), tag("figure", chart, tag("figcaption", note)), tag("div", *small, class_="row")])


def samples(facts: Facts) -> Html:
    found = facts.scorecards[0]["counts"].get("samples", []) if facts.scorecards else []
    if not found:
        return missing("No sample of text has been generated", "treadle run")
    note = "Marked: the prompt. The rest is the model's, unedited."
    shown = [tag("pre", tag("mark", sample["prompt"]), sample["text"]) for sample in found]
    return join([tag("p", note), *shown])


def compression(facts: Facts) -> Html:
    if not facts.package:
        return missing("No package has been made", "treadle run")
    counts = facts.package["counts"]
    before, after = counts["original"], counts["package"]

    def pair(name: str, key: str, show: Callable[[float], str]) -> tuple[str, list[tuple[str, float, str, int]]]:
        change = after[key] / before[key] - 1 if before[key] else 0.0
        return name, [
            ("trained", before[key], show(before[key]), 6), ("package", after[key], f"{show(after[key])} ({change:+.1%})", 1),
        ]

    groups = [
        pair("size of the weights, lower is better", "bytes", format_size),
        pair("generation in tokens/s, higher is better", "tokens_per_second", lambda rate: f"{rate:.0f}"),
        pair("bits per byte, lower is better", "bits_per_byte", lambda bits: f"{bits:.4f}"),
    ]
    words = (
        f"{counts['quantize']} weights. Bits per byte changed by {counts['drift']:+.2%}; "
        f"up to {counts['max_drift']:+.2%} is allowed."
    )
    chart = both_widths(lambda width: paired_bars(groups, "The package beside the trained model", width))
    return join([tag("p", words), tag("figure", chart)])


def _gate(counts: Mapping[str, Any]) -> Html:
    rows = []
    for row in counts["gate"]:
        name, digits = METRICS[row["metric"]][0], METRICS[row["metric"]][2]
        word = tag("b", "Passed" if row["passed"] else "Refused", class_="good" if row["passed"] else "bad")
        rows.append(tag("p", word, f": {name} {figure(row, digits)}, the gate asks for {row['bound']}.", class_="gate"))
    return join(rows)


def _scope(counts: Mapping[str, Any]) -> Html:
    left = counts["left_out"]
    size = f"Scored on {counts['documents']} documents, {format_count(counts['tokens'])} tokens, that were never trained on"
    rest = f"; {left['documents']} more, {format_count(left['tokens'])} tokens, were left out" if left["documents"] else ""
    return join([tag("p", f"{size}{rest}."), _verdict(counts)])


def _verdict(counts: Mapping[str, Any]) -> Html:
    """In words, how the model stands against each baseline: better or worse only where the intervals do not overlap."""
    own = counts["metrics"]["bits_per_byte"]
    found: dict[str, list[str]] = {"better than": [], "not told apart from": [], "worse than": []}
    for name, baseline in counts["baselines"].items():
        other = baseline["bits_per_byte"]
        better, worse = own["high"] < other["low"], own["low"] > other["high"]
        found["better than" if better else "worse than" if worse else "not told apart from"].append(name)
    told = [f"{word} {' and '.join(names)}" for word, names in found.items() if names]
    return tag("p", f"In bits per byte it is {'; '.join(told)}.") if told else Html("")


def _comparison(counts: Mapping[str, Any], earlier: Manifest | None, gated: bool) -> Html:
    """Bits per byte of this model, of the one that it was improved from, and of the baselines."""
    def row(name: str, value: Mapping[str, float], strong: bool = False) -> Whisker:
        return Whisker(name, value["value"], value["low"], value["high"], strong)

    rows = [row("this model", counts["metrics"]["bits_per_byte"], True)]
    rows += sorted((row(name, b["bits_per_byte"]) for name, b in counts["baselines"].items()), key=lambda row: row.value)
    if earlier:
        rows.insert(1, row("before improvement", earlier["counts"]["metrics"]["bits_per_byte"]))
    if len(rows) < 2:
        return Html("")
    gate = next((g for g in counts["gate"] if gated and g["metric"] == "bits_per_byte"), None)
    bound = (f"gate {gate['bound']}", float(str(gate["bound"]).split()[-1])) if gate else None
    title = "Bits per byte of the model and of what it is compared with, with 95% intervals"
    chart = both_widths(lambda width: whisker_chart(rows, title, "bits per byte, 95% interval (lower is better)", width, bound))
    return tag("figure", chart)


def _metrics(counts: Mapping[str, Any]) -> Html:
    rows: list[list[object]] = []
    for key, (name, meaning, digits) in METRICS.items():
        value = counts["metrics"][key]
        rows.append([_explained(name, meaning), *_cells(value, digits)])
    for name, baseline in counts["baselines"].items():
        rows.append([_explained(f"{name} baseline", "bits per byte"), *_cells(baseline["bits_per_byte"], 3)])
    return table(["", "value", "95% interval"], rows, numeric=(1, 2))


def _explained(name: str, meaning: str) -> Html:
    return join([name, tag("small", meaning)])


def _cells(value: Mapping[str, float], digits: int) -> list[str]:
    return [f"{value['value']:.{digits}f}", f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"]


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each point and those near it, fewer at the ends, so that nothing is shifted."""
    reach = max(1, len(points) // 60)
    values = [y for _, y in points]
    means = []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        window = values[index - near : index + near + 1]
        means.append((x, sum(window) / len(window)))
    return means


def _small(steps: list[Mapping[str, float]], key: str, label: str, colour: int) -> Html:
    points = [(line["tokens"], line[key]) for line in steps if key in line]
    if not points:
        return Html("")
    return tag("figure", line_chart([Series("", points, colour)], label, "tokens", label, 300, 170, format_count, zero=True))


def _shape(shape: Manifest) -> str:
    return f"{shape['depth']} layers of {shape['width']}" if shape else ""
