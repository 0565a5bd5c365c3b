"""The report's sections on the model: is it good, how it learned, what it says, what it was packed into."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from treadle.report import scorecards, steering
from treadle.report.charts import Series, both_widths, line_chart, paired_bars, smooth, stacked_bar
from treadle.report.facts import moment
from treadle.report.fitting import WARNS, judge_fitting
from treadle.report.gather import Facts, Manifest
from treadle.report.html import Html, join, keyed, picture, table, tag
from treadle.report.scorecards import glance
from treadle.report.spending import judge_spending, operation_rows, profile_words
from treadle.spec.units import format_count, format_duration, format_size

_PARTS = (
    ("data", 5, "making batches"), ("forward", 1, "from a batch to its loss"), ("backward", 2, "from the loss to gradients"),
    ("optimizer", 3, "from gradients to new weights"), ("validation", 4, "losses of held-out examples, and samples"),
    ("checkpoints", 6, "writing what a stopped run goes on from"), ("boards", 6, "the history, boards, trackers and the profiler"),
    ("other", 6, "the loop, and what else the machine did"),
)
"""Of a training's time: name, colour, meaning."""


def missing(what: str, command: str) -> Html:
    """A sentence in place of a section's figures."""
    return tag("p", f"{what}; ", tag("code", command), " does that.", class_="missing")


def header(facts: Facts) -> Html:
    """Name, what is live, and the figures that one asks for first."""
    live, package = facts.live, facts.package
    detail = None
    if live:
        state, detail = _state(facts, live), tag("p", f"Why: {live['reason']}.", class_="detail")
    else:
        state = "No version is live." if facts.manifests else "Nothing is made yet: 'treadle run' makes the first version."
    tiles = glance(facts)
    if facts.model:
        counts = facts.model["counts"]
        tiles.append(("parameters", format_count(counts["parameters"]), _shape(counts.get("shape"), facts)))
        tiles.append(_trained(facts))
    if package:
        counts = package["counts"]
        unit, rate = _speed(counts)
        tiles.append(("package", format_size(counts["package"]["bytes"]), _weights(counts)))
        tiles.append(("speed", f"{rate:.0f}", f"{unit}/s, {'one stream' if unit == 'tokens' else 'in batches'}"))
    if facts.totals.get("answers"):
        tiles.append(("answers", format_count(facts.totals["answers"]), f"{len(facts.said)} with feedback"))
    cells = [tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", note))) for name, value, note in tiles]
    state_line = tag("p", state, class_="state")
    return tag("header", tag("h1", facts.project.spec.name), state_line, detail or "", tag("dl", *cells, class_="tiles"))


def _state(facts: Facts, live: Manifest) -> str:
    again = " again" if live["action"] == "rollback" else ""
    how = ", improved by users' feedback" if len(facts.trainings) > 1 else ""
    gate = facts.scorecards[0]["counts"]["gate"] if facts.scorecards else []
    verdict = "" if not gate else ". It passed the gate" if all(row["passed"] for row in gate) else ". The gate refuses it today"
    return f"Version {live['version']} is live{again} since {moment(live['at'])}{how}{verdict}."


def _trained(facts: Facts) -> tuple[str, str, str]:
    """What the model and those that it was improved from were trained on, all together."""
    every = [manifest["counts"] for manifest in facts.trainings]
    amount, seconds = (sum(counts[key] for counts in every) for key in ("tokens", "seconds"))
    last = f", of them {format_count(every[-1]['tokens'])} in the last of {len(every)} rounds" if len(every) > 1 else ""
    return "trained on", format_count(amount), f"{unit_of(every[-1])} in {format_duration(seconds)}{last}"


def unit_of(model: Manifest) -> str:
    """What a model's training counted."""
    return str(model.get("unit", "tokens"))


def _speed(package: Manifest) -> tuple[str, float]:
    """Unit and number a second."""
    figures = package["package"]
    return next((unit, figures[f"{unit}_per_second"]) for unit in ("tokens", "records") if f"{unit}_per_second" in figures)


def _weights(package: Manifest) -> str:
    return "weights as trained" if package["quantize"] == "none" else f"{package['quantize']} weights"


def scorecard(facts: Facts) -> Html:
    return scorecards.scorecard(facts) if facts.scorecards else missing("No model has been evaluated", "treadle run")


def learning(facts: Facts) -> Html:
    steps = [line for line in facts.history if "loss" in line]
    if not facts.model:
        return missing("No model has been trained", "treadle run")
    if not steps:
        return tag("p", "The history of this training cannot be read.", class_="missing")
    counts = facts.model["counts"]
    unit = unit_of(counts)
    axis = "loss, nats per token" if unit == "tokens" else "loss"
    loss = [(line["tokens"], line["loss"]) for line in steps]
    alike = [(line["tokens"], line["train_loss_eval"]) for line in facts.history if "train_loss_eval" in line]
    seen = [(line["tokens"], line["validation_loss"]) for line in facts.history if "validation_loss" in line]
    series = [
        Series("", loss, 1, "faint"), Series("training", alike, 1, "dots") if alike else Series("training", smooth(loss), 1),
        Series("validation", seen, 2, "dots"),
    ]
    naive = counts.get("naive_loss")
    level = ("the best answer that looks at no input", naive) if naive is not None else None
    chart = both_widths(
        lambda width: line_chart(series, "Loss over training", unit, axis, width, 300, format_count, level=level)
    )
    small = [
        _small(steps, unit, "learning_rate", "learning rate", 3),
        _small(steps, unit, "gradient_norm", "gradient norm before clipping", 4),
        _small(steps, unit, "tokens_per_second", f"{unit} per second", 5),
        _small(steps, unit, "noise_scale", "gradient noise scale, in examples", 6),
    ]
    words = (
        f"{counts['steps']} steps, {format_count(counts['tokens'])} {unit} in {format_duration(counts['seconds'])}, "
        f"{format_count(counts['tokens_per_second'])} {unit}/s"
    )
    if counts.get("flops_share"):
        share = counts["flops_share"]
        words += f": {'under 1%' if share < 0.01 else f'{share:.0%}'} of the machine's measured matrix peak"
    if counts.get("stopped_early"):
        words += ". It stopped early, since the validation loss no longer fell; the weights of the lowest are kept"
    if noise := steering.noise_words(counts, facts.model["config"].get("batch", 0), unit):
        words += f". {noise}"
    if len(facts.trainings) > 1:
        words = f"This is the last of {len(facts.trainings)} rounds, the one that learned from feedback. {words}"
    note = "Faint: every step. Points: records that it learns from and the validation part, measured alike at the same moments."
    if not alike:
        note = "Faint: every step. Solid: its running mean. Points: the validation part."
    return join([
        tag("p", words + "."), _fitting(facts), steering.returns(counts), tag("figure", chart, tag("figcaption", note)),
        tag("div", *small, class_="row"), steering.chosen(counts), *(_wrong(name, sheet) for name, sheet in facts.wrong.items()),
    ])


def _wrong(name: str, sheet: bytes) -> Html:
    note = "Of the validation part, those with the highest loss, the highest first: what the model says, and what is right."
    return join([tag("h3", f"Most wrong: {name}"), picture(sheet, f"{name}: the pictures that the model gets most wrong", note)])


def _fitting(facts: Facts) -> Html:
    """Whether the first training over-fits or under-fits; a round of improvement is validated on old data, which says neither."""
    if facts.model is None or len(facts.trainings) > 1:
        return Html("")
    found = judge_fitting(facts.history, facts.model["counts"], facts.project.spec)
    words = [found.words[:1].upper() + found.words[1:] + "."]
    words += [f" To mend it: {found.cure}."] if found.cure else []
    return tag("p", *words, class_="warns" if found.verdict in WARNS else None)


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
    unit, measure = _speed(counts)[0], counts.get("measure", "bits per byte")

    def pair(name: str, key: str, show: Callable[[float], str]) -> tuple[str, list[tuple[str, float, str, int]]]:
        change = after[key] / before[key] - 1 if before[key] else 0.0
        return name, [
            ("trained", before[key], show(before[key]), 6), ("package", after[key], f"{show(after[key])} ({change:+.1%})", 1),
        ]

    groups = [
        pair("size of the weights, lower is better", "bytes", format_size),
        pair(f"{unit}/s, higher is better", f"{unit}_per_second", lambda rate: f"{rate:.0f}"),
        pair(f"{measure}, lower is better", measure.replace(" ", "_"), lambda value: f"{value:.4f}"),
    ]
    words = (
        f"{_weights(counts).capitalize()}. {measure.capitalize()} changed by {counts['drift']:+.2%}; "
        f"up to {counts['max_drift']:+.2%} is allowed."
    )
    chart = both_widths(lambda width: paired_bars(groups, "The package beside the trained model", width))
    return join([tag("p", words), tag("figure", chart)])


def _small(steps: list[Mapping[str, float]], unit: str, key: str, label: str, colour: int) -> Html:
    points = [(line["tokens"], line[key]) for line in steps if key in line]
    if not points:
        return Html("")
    return tag("figure", line_chart([Series("", points, colour)], label, unit, label, 300, 170, format_count, zero=True))


def _shape(shape: Manifest | None, facts: Facts) -> str:
    if not shape:
        return facts.project.spec.model.trunk.kind
    return f"{shape['depth']} layer{'s' * (shape['depth'] > 1)} of {shape['width']}"


def time(facts: Facts) -> Html:
    """What the training's seconds went into, and the costliest operations where it was profiled."""
    if not facts.model:
        return missing("No model has been trained", "treadle run")
    found = judge_spending(facts.model["counts"])
    if not found:
        return tag("p", "Where this training's time went was not noted.", class_="missing")
    seconds, shares = found["seconds"], found["shares"]
    told = [part for part in _PARTS if part[0] in seconds]
    sizes = [(name, seconds[name], colour) for name, colour, _ in told]
    bar = both_widths(lambda width: stacked_bar(sizes, "Training time", width, format_duration))
    rows = [
        [keyed(name, colour), format_duration(seconds[name]), f"{shares[name]:.1%}", meaning]
        for name, colour, meaning in told
    ]
    parts = [tag("figure", bar), table(["part", "time", "share", "is"], rows, numeric=(1, 2))]
    if profile := found["profile"]:
        words, file = _sentence(profile_words(profile)), tag("code", "profile.json.gz")
        parts.append(tag("h3", "Operations"))
        parts.append(tag("p", f"{words} All of them are in the model's ", file, ", for ui.perfetto.dev or chrome://tracing."))
        parts.append(table(["operation", "share", "in a step", "each"], operation_rows(profile), numeric=(1, 2, 3)))
    if found["advice"]:
        parts.append(tag("ul", *(tag("li", _sentence(words)) for words in found["advice"])))
    return join(parts)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
