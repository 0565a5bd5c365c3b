"""The report's sections on where it all came from, what it took, and what users made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from treadle.core.machine import environment
from treadle.data.shards import PARTS
from treadle.report.charts import both_widths, paired_bars, stacked_bar
from treadle.report.facts import artifact_facts, gone_on, moment
from treadle.report.gather import Facts, ancestry
from treadle.report.graph import Box, draw_graph
from treadle.report.html import Html, join, keyed, picture, table, tag
from treadle.report.sections import missing
from treadle.spec.units import format_count, format_duration, format_size

_COLOURS = (2, 5, 4, 3, 6)


def data(facts: Facts) -> Html:
    if not facts.corpus:
        return missing("No data has been prepared", "treadle run")
    counts = facts.corpus["counts"]
    account, parts = counts["account"], []
    aside = sorted(account["set_aside"].items(), key=lambda pair: -pair[1])
    segments = [("kept", account["kept"], 1)]
    segments += [(reason, count, _COLOURS[index % len(_COLOURS)]) for index, (reason, count) in enumerate(aside)]
    parts.append(tag("h3", f"{account['in']:,} records in = {account['kept']:,} kept + {sum(n for _, n in aside):,} set aside"))
    parts.append(tag("figure", both_widths(lambda width: stacked_bar(segments, "Records kept and set aside", width, _count))))
    rows: list[list[object]] = [
        [keyed(name, colour), f"{count:,}", _share(count / max(account["in"], 1))]
        for name, count, colour in segments
    ]
    parts.append(table(["records", "count", "share"], rows, numeric=(1, 2)))
    if facts.dataset:
        parts.append(_split(facts.dataset["counts"]))
        notes = facts.dataset["counts"].get("notes")
        if notes:
            parts += [tag("h3", "Notes on the data"), tag("ul", *(tag("li", note) for note in notes))]
    parts += [_sheet(name, sheet, facts) for name, sheet in facts.sheets.items()]
    parts += [_taught(corpus["counts"]) for corpus in facts.taught]
    every = [source for corpus in (facts.corpus, *facts.taught) for source in corpus["counts"]["sources"]]
    sources = [[s["pattern"], s["licence"], f"{s['files']:,}", format_size(s["bytes"])] for s in every]
    parts += [tag("h3", "Sources"), table(["pattern", "licence", "records", "size"], sources, numeric=(2, 3))]
    redacted = ", ".join(f"{count:,} {kind}" for kind, count in counts["redacted"].items())
    parts.append(tag("p", f"Redacted: {redacted}." if redacted else "Nothing was redacted."))
    return join(parts)


def _sheet(name: str, sheet: bytes, facts: Facts) -> Html:
    """What training makes of a few pictures."""
    boxed = any(head.kind == "boxes" for head in facts.project.spec.model.heads.values())
    told = "On the left a picture as it is, then what training sees in its place: each time it is changed anew, at random"
    note = f"{told}, and its boxes go along." if boxed else f"{told}. One must still be able to tell what it shows."
    alt = f"{name}: pictures and what training makes of them"
    return join([tag("h3", f"Changed in training: {name}"), picture(sheet, alt, note)])


def _taught(counts: Mapping[str, Any]) -> Html:
    """What became of the feedback that a round of improvement learned from."""
    account = counts["account"]
    aside = sorted(account["set_aside"].items(), key=lambda pair: -pair[1])
    total = sum(count for _, count in aside)
    title = f"From users: {account['in']:,} pieces of feedback = {account['kept']:,} kept + {total:,} set aside"
    why = ", ".join(f"{count:,} {reason}" for reason, count in aside)
    parts = [tag("h3", title), tag("p", f"Set aside: {why}." if why else "Each was used.")]
    if any(row["key"] for row in counts.get("keys", ())):
        rows = [[row["key"] or "no key", f"{row['given']:,}", f"{row['kept']:,}"] for row in counts["keys"]]
        parts.append(table(["key", "pieces given", "kept"], rows, numeric=(1, 2)))
    return join(parts)


def prediction(facts: Facts) -> Html:
    found = facts.comparison
    if not found and facts.model:
        return tag("p", "No run was planned and then made from start to end, so there is nothing to compare.", class_="missing")
    if not found:
        return missing("No run has ended whose plan could be compared", "treadle run")
    groups, rows = [], []
    for row in found["stages"]:
        shown = [("predicted", row["predicted"], format_duration(row["predicted"]), 6)]
        if not row["cached"]:
            shown.append(("measured", row["measured"], format_duration(row["measured"]), 1))
            groups.append((row["stage"], shown))
        measured = ["", "cached"] if row["cached"] else [format_duration(row["measured"]), f"{row['ratio']:.2f}"]
        rows.append([row["stage"], format_duration(row["predicted"]), *measured])
    total, memory = found["total"], found["peak_memory"]
    if total["ratio"] is not None:
        both = [format_duration(total["predicted"]), format_duration(total["measured"])]
        rows.append(["all that ran", *both, f"{total['ratio']:.2f}"])
    rows.append(["peak memory", format_size(memory["predicted"]), format_size(memory["measured"]), _ratio(memory["ratio"])])
    words = f"The newest run, on {found['machine']}, with a budget of {found['budget']}."
    if found["energy_kwh"] is not None:
        words += f" It was to take {found['energy_kwh'] * 1000:.3g} Wh and {found['money']:.2g} {found['currency']}."
    chart = both_widths(lambda width: paired_bars(groups, "Time of each stage, predicted and measured", width)) if groups else ""
    head = ["", "predicted", "measured", "ratio"]
    note = "Each stage has its own scale. Ratio: measured / predicted."
    return join([
        tag("p", words), tag("figure", chart, tag("figcaption", note)) if chart else "", table(head, rows, numeric=(1, 2, 3)),
    ])


def versions(facts: Facts) -> Html:
    if not facts.deployments:
        return missing("No version has gone live", "treadle run")
    live = facts.deployments[-1]
    rows = []
    for row in facts.deployments:
        state = tag("b", "live", class_="good") if row is live else ""
        rows.append([f"{row['version']}", row["action"], _date(row["at"]), row["reason"], tag("code", row["package"]), state])
    parts = [table(["version", "what", "when", "reason", "package", ""], rows, stacks=True)]
    if facts.candidate:
        lines = [tag("li", line.strip()) for line in facts.candidate]
        parts += [tag("h3", "The candidate beside it"), tag("ul", *lines)]
    if facts.rollouts:
        rows = [
            [f"{row['version']}", row["kind"], f"{row['share']:.0%}", _date(row["at"]), row["reason"], tag("code", row["package"])]
            for row in facts.rollouts
        ]
        parts += [tag("h3", "Candidates"), table(["version", "what", "share", "when", "reason", "package"], rows, stacks=True)]
    said = Counter("edited" if row["edited"] is not None else str(row["rating"]) for row in facts.said)
    answers = facts.totals.get("answers", 0)
    if answers:
        kinds = [("up", "thumbs up"), ("edited", "edited"), ("down", "thumbs down")]
        list_ = ", ".join(f"{said[kind]} {name}" for kind, name in kinds if said[kind]) or "no feedback yet"
        words = f"{answers:,} answers given, {sum(said.values()):,} with feedback, of which the newest word counts: {list_}."
        parts.append(tag("p", words))
    else:
        parts.append(tag("p", "No answers yet: ", tag("code", "treadle serve"), " gives them and collects feedback."))
    failed = [run for run in facts.runs if run["outcome"] not in (None, "done")]
    if failed:
        rows = [
            [run["word"], _date(run["started"]), run["outcome"], (run["detail"] or {}).get("error", "")] for run in failed[-10:]
        ]
        parts += [tag("h3", "Runs that were refused or failed"), table(["word", "started", "outcome", "why"], rows, stacks=True)]
    return join(parts)


def lineage(facts: Facts) -> Html:
    kept = [m["id"] for m in (facts.package, facts.model, facts.dataset, facts.corpus) if m]
    if not kept:
        return missing("Nothing has been made", "treadle run")
    shown = ancestry(facts.manifests, [*kept, *(card["id"] for card in facts.scorecards)])
    boxes, parents = [], {}
    for id in shown:
        manifest = facts.manifests[id]
        boxes.append(Box(id, manifest["kind"], id.partition("-")[2][:8], manifest["kind"]))
        parents[id] = list(manifest["parents"])
    numbers = {row["package"]: row["version"] for row in facts.deployments}
    for package, version in numbers.items():
        if package in parents:
            live = bool(facts.live and facts.live["version"] == version)
            boxes.append(Box(f"version {version}", f"version {version}", "live" if live else "served", "version", live))
            parents[f"version {version}"] = [package]
    for corpus in [manifest for id, manifest in facts.manifests.items() if id in parents and manifest["kind"] == "corpus"]:
        for source in corpus["counts"]["sources"]:
            name = f"source {len(boxes)}"
            boxes.insert(0, Box(name, source["pattern"], source["licence"], "source"))
            parents[corpus["id"]].append(name)
    chart = both_widths(lambda width: draw_graph(boxes, parents, "What was made from what", width))
    rest = len(facts.manifests) - len(shown)
    note = f"{rest} other artifacts of the store are not part of it." if rest else ""
    rows = [[tag("code", id), join([tag("div", fact) for fact in artifact_facts(facts.manifests[id])])] for id in shown]
    details = tag("details", tag("summary", "Every artifact in words"), table(["artifact", "what it is"], rows))
    return join([tag("figure", chart, tag("figcaption", note) if note else ""), details])


def settings(facts: Facts) -> Html:
    parts = []
    if facts.model:
        counts = facts.model["counts"]
        rows = [[row["key"], row["value"], row["reason"]] for row in counts.get("derived", [])]
        if rows:
            parts += [tag("h3", "Derived values"), table(["value", "is", "because"], rows)]
        runtime = counts.get("runtime")
        if runtime:
            threads = f"{runtime['threads']} thread{'s' * (runtime['threads'] > 1)}"
            words = f"Trained in {runtime['precision']} on {runtime['device']}, {threads} ({runtime['reason']})"
            peak = f"; matrix peak {counts['matrix_peak'] / 1e9:.0f} GFLOP/s" if counts.get("matrix_peak") else ""
            memory = f"; peak memory {format_size(counts['peak_memory'])}" if counts.get("peak_memory") else ""
            parts.append(tag("p", f"{words}{peak}{memory}."))
            parts += [tag("p", f"{fact[0].upper()}{fact[1:]}.") for fact in gone_on(counts)]
    made = facts.model or facts.dataset or facts.corpus
    found: Mapping[str, Any] = made["environment"] if made else environment()
    title = "Environment in which the model was made" if facts.model else "Environment"
    parts += [tag("h3", title), table(["", ""], [[key, value] for key, value in found.items()])]
    return join(parts)


def _split(counts: Mapping[str, Any]) -> Html:
    sizes = {part: counts["parts"][part] for part in PARTS if part in counts["parts"]}
    unit = "records" if counts.get("kind") == "records" else "tokens"
    segments = [(part, float(size[unit]), colour) for (part, size), colour in zip(sizes.items(), (1, 3, 2), strict=False)]
    chart = both_widths(lambda width: stacked_bar(segments, f"{unit.capitalize()} of each part", width, format_count))
    total = sum(amount for _, amount, _ in segments)
    names = [keyed(part, colour) for part, _, colour in segments]
    if unit == "records":
        amounts = [amount for _, amount, _ in segments]
        rows = [[name, f"{n:,.0f}", _share(n / max(total, 1))] for name, n in zip(names, amounts, strict=True)]
        return join([
            tag("h3", f"{total:,.0f} records in three parts"), tag("figure", chart),
            table(["part", "records", "share"], rows, numeric=(1, 2)),
        ])
    rows = [
        [name, f"{size['documents']:,}", format_count(size["tokens"]), format_size(size["bytes"])]
        for name, size in zip(names, sizes.values(), strict=True)
    ]
    words = f"{format_count(total)} tokens, {counts['bytes_per_token']:.2f} bytes each, vocabulary {counts['vocabulary']:,}"
    return join([tag("h3", words), tag("figure", chart), table(["part", "documents", "tokens", "text"], rows, numeric=(1, 2, 3))])


def _date(stamp: object) -> Html:
    return tag("span", moment(stamp), class_="date")


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float) -> str:
    return "< 0.1%" if 0 < value < 0.001 else f"{value:.1%}"


def _count(value: float) -> str:
    return f"{value:,.0f}"
