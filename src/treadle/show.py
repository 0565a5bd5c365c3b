"""Results as people read them in a terminal. Takes plain documents, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treadle.core.project import Project
from treadle.data.account import account_lines
from treadle.plan.show import comparison_lines, money, table
from treadle.report.spending import spending_lines
from treadle.report.verdicts import fold_standing, standing
from treadle.spec.units import format_count, format_duration, format_figure, format_size, significant
from treadle.store.tables import now

_SAMPLE_LINES = 8
_METRICS = {
    "bits_per_byte": "lower is better", "loss": "nats per token", "perplexity": "exp(loss)",
    "accuracy": "share of tokens that were the likeliest",
}


def checked(project: Project, found: Mapping[str, Any]) -> list[str]:
    """The outcome of ``treadle check``."""
    lines = [f"{project.folder / 'treadle.yaml'} is right"]
    for source in found["sources"]:
        size = f"{source['count']} files, {format_size(source['bytes'])}" if source["bytes"] else ""
        read = f"the first {source['rows']} rows read" if "rows" in source else ""
        lines.append(f"  {source['files']}: " + ", ".join(part for part in (size, read, source.get("note", "")) if part))
    if found["columns"]:
        rows = [("column", "read as", "missing", "unreadable", "such as")]
        rows += [
            (str(c["column"]), c["read_as"], _share(c["missing"], c["rows"]), _share(c["unreadable"], c["rows"]), c["example"])
            for c in found["columns"]
        ]
        lines += ["", *table(rows)]
    size = "settings:"
    if found["parameters"]:
        size = f"model of {format_count(found['parameters'])} parameters; what follows from its depth:"
    return [*lines, "", size, *derived(found["derived"])]


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" if count else ""


def recipes(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Each recipe with its data, its time on two cores, and its figures."""
    lines, wide = [], 2 + max(map(len, found), default=0)
    for name, about in found.items():
        lines += [f"{name:{wide}}{about['what']}", f"{'':{wide}}{about['data']}; {about['time']}"]
        lines += [f"{'':{wide}}reached {about['reached']}; reference: {about['reference']}"]
    return lines


def predicted(found: Mapping[str, Any]) -> list[str]:
    """Where the answers are, and which rows have none."""
    aside = found["set_aside"]
    lines = [f"wrote {found['path']}: {found['answered']} rows answered by version {found['version']}, {len(aside)} not"]
    for item in aside[:_SAMPLE_LINES]:
        detail = f" ({item['detail']})" if item["detail"] else ""
        lines.append(f"  {item['source']}: {item['reason']}{detail}")
    return lines + [f"  ({len(aside) - _SAMPLE_LINES} more in the column 'problem')"] * (len(aside) > _SAMPLE_LINES)


def started(folder: Path, guesses: Sequence[Mapping[str, str]]) -> list[str]:
    """What ``init --from`` guessed, and what to do about it."""
    rows = [("", "guess", "reason"), *((g["what"], g["guess"], g["reason"]) for g in guesses)]
    lines = [f"made {folder / 'treadle.yaml'} from these guesses ('-': left out):", *table(rows)]
    lines += ["what is wrong, change there: a column's kind under model.inputs, the answer under model.heads", "next:"]
    return [*lines, f"  cd {folder}", "  treadle check", "  treadle run"]


def derived(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each value with its reason."""
    return table([(str(row['key']), str(row["value"]), row["reason"]) for row in rows])


def outcome(found: Mapping[str, Any], file: Path | None = None) -> list[str]:
    """What a run or a round of improvement made, measured and decided."""
    lines: list[str] = []
    if found.get("account"):
        lines += ["", *data(found)]
    if found.get("scorecard"):
        lines += ["", *scorecard(found["scorecard"])]
    if found.get("folds"):
        lines += ["", *folds(found["folds"])]
    if found.get("spending"):
        lines += ["", *spending_lines(found["spending"])]
    if found.get("package"):
        lines += ["", *package(found["package"])]
    if found.get("plan"):
        lines += ["", *comparison_lines(found["plan"])]
    if found.get("conditions"):
        lines += ["", "promoted:" if found["promoted"] else "not promoted:"]
        lines += [f"  {'yes' if row['holds'] else ' NO'}  {row['text']}" for row in found["conditions"]]
    if (fitting := found.get("fitting")) and fitting["warns"]:
        lines += ["", f"the model {fitting['words']}", f"  to mend it: {fitting['cure']}"]
    if rollout := found.get("rollout"):
        what = f"{rollout['kind']}, {rollout['share']:.0%} of requests"
        lines += ["", f"version {found['version']} stands beside the live one ({what})"]
        lines += [f"  how it stands:  treadle rollout{_where(file)}"]
    elif found.get("version"):
        lines += ["", f"version {found['version']} is live; a running server changes over by itself"]
        lines += [f"  to start one:  treadle serve{_where(file)}"]
    return lines[1:] if lines and not lines[0] else lines


def tuned(found: Mapping[str, Any]) -> list[str]:
    """The trials of a search, what matters, and the best settings as they are written into the file."""
    keys = list(found["trials"][0]["settings"]) if found["trials"] else []
    rows = [("trial", found["measure"], *keys, "")]
    for trial in found["trials"]:
        value = "" if trial["value"] is None else f"{trial['value']:.4g}"
        settings = (json.dumps(trial["settings"][key], ensure_ascii=False) for key in keys)
        best = "best" if trial is found["best"] or trial == found["best"] else ""
        rows.append((str(trial["number"]), value, *settings, best if value else f"{trial['state']}: {trial['why']}"))
    lines = [f"{len(found['trials'])} trials, judged on the validation part:", *table(rows)]
    if found["importance"]:
        lines += ["", "share of the differences that each setting explains:"]
        lines += table([(key, f"{share:.0%}") for key, share in found["importance"].items()])
    if found["best"]:
        wanted = {key: json.dumps(value, ensure_ascii=False) for key, value in found["best"]["settings"].items()}
        lines += ["", "to use the best settings, write them into treadle.yaml:"]
        lines += table([(f"{key}:", text) for key, text in wanted.items()])
        lines += ["or try them:", "  treadle run " + " ".join(f"--set '{key}={text}'" for key, text in wanted.items())]
    return lines


def compared(found: Mapping[str, Any]) -> list[str]:
    """Models side by side: what they took, how good they are, and in which settings they differ."""
    runs = found["runs"]
    rows = [("", *(run["label"] for run in runs))]
    rows.append(("parameters", *(format_count(run["parameters"]) for run in runs)))
    rows.append(("time", *(format_duration(run["seconds"]) for run in runs)))
    rows.append(("speed", *(f"{format_count(significant(run['per_second'], 3))} {run['unit']}/s" for run in runs)))
    rows.append(("money", *(f"{money(run['money'])} {run['currency']}" for run in runs)))
    rows.append(("validation loss", *(_known(run["validation_loss"]) for run in runs)))
    for name in dict.fromkeys(name for run in runs for name in run["figures"]):
        rows.append((name, *(_figure(run["figures"][name]) if name in run["figures"] else "" for run in runs)))
    lines = table(rows)
    if found["differences"]:
        lines += ["", "settings that differ:"]
        lines += table([(key, *(_short(value) for value in row)) for key, row in found["differences"].items()])
    lines += [f"note: {note}" for note in found["notes"]]
    return [*lines, "", f"wrote {found['path']}, with their curves"]


def _known(value: float | None) -> str:
    return "" if value is None else format_figure(value)


def _short(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def gone_back(found: Mapping[str, Any], file: Path) -> list[str]:
    """What a rollback did, and the way back from it."""
    return [
        f"version {found['version']} is live again ({found['package']}); a running server changes over by itself",
        f"  to take this back:  treadle rollback --to {found['before']}{_where(file)}",
    ]


def keys(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outcome of ``treadle key list``."""

    def standing(row: Mapping[str, Any]) -> str:
        until = row["expires"]
        if row["revoked"]:
            return "revoked"
        return "live" if until is None else f"{'live until' if until > now() else 'expired'} {until:%Y-%m-%d %H:%M} UTC"

    def use(row: Mapping[str, Any]) -> str:
        today = row["today"]
        parts = (f"{today['requests']} requests", f"{today['tokens']} tokens", f"{today['predictions']} records")
        return ", ".join(part for part in parts if not part.startswith("0 ")) or f"last used {row['last_used'] or 'never'}"

    def own(row: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={'none' if value is None else value}" for name, value in row["limits"].items())

    rows = [(row["name"], ", ".join(row["scopes"]), standing(row), own(row), use(row)) for row in found]
    return table([("name", "scopes", "", "own limits", "today"), *rows]) if rows else ["no keys"]


def audit(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outcome of ``treadle audit``."""

    def detail(row: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in row["detail"].items())

    found = [(str(row["id"]), f"{row['at']:%Y-%m-%d %H:%M:%S}", row["action"], detail(row)) for row in rows]
    return table(found) if found else ["no entries"]


def audited(count: int, head: str) -> list[str]:
    """The outcome of ``treadle audit verify``."""
    return [
        f"{count} entries, each as it was written",
        f"the last has the hash {head}",
        "note it elsewhere: 'treadle audit verify --head HASH' then sees whether entries were taken from the end",
    ]


def packaged(found: Mapping[str, Any]) -> list[str]:
    """What lies in a packaged folder, and what it asks of a machine."""
    folder, needs = found["folder"], found["needs"]
    return [
        f"wrote version {found['version']} of {found['name']} ({found['package']}, {format_size(found['bytes'])}) to {folder}",
        f"  it needs {needs['memory']} MiB of memory, {needs['most_memory']} MiB at most",
        "next, any of:",
        f"  cd {folder} && docker build .       a container; also with compose.yaml",
        f"  {folder}/kubernetes.yaml             a cluster",
        f"  {folder}/treadle.service             a service of systemd",
        f"  {folder}/edge                        the model as plain files, for other programs",
        f"{folder}/README.md says how, with keys, newer versions and the way back",
    ]


def _where(file: Path | None) -> str:
    """The option that names ``file``, where that is needed."""
    return f" -f {file}" if file and str(file) != "treadle.yaml" else ""


def data(found: Mapping[str, Any]) -> list[str]:
    """in = kept + set aside, by reason; and what was replaced in what was kept."""
    first, *reasons = account_lines(found["account"])
    redacted = ", ".join(f"{count} {kind}" for kind, count in found["redacted"].items())
    return [f"data: {first}", *reasons, *([f"  replaced in the text: {redacted}"] if redacted else [])]


def scorecard(card: Mapping[str, Any]) -> list[str]:
    """Figures with intervals, baselines, verdict and samples."""
    return _heads(card) if card["kind"] == "records" else _language(card)


def _heads(card: Mapping[str, Any]) -> list[str]:
    lines = [f"scorecard on the {card['part']} part ({card['records']} records), 95% intervals:"]
    for name, head in card["heads"].items():
        baselines = head["baselines"]
        unanswered = f", {head['unanswered']} without an answer" if head["unanswered"] else ""
        unanswered += f", {head['unseen']} whose answer training never saw, counted as wrong" if head.get("unseen") else ""
        lines.append(f"  {name} ({head['kind']}{unanswered})")
        rows = [("", "this model", *baselines)]
        for metric, figure in head["metrics"].items():
            rows.append((metric, _figure(figure), *(_figure(b[metric]) if metric in b else "" for b in baselines.values())))
        lines += [f"  {line}" for line in table(rows)]
        lines += [f"    {line}" for line in standing(head)]
    return lines + _gate_lines(card)


def folds(card: Mapping[str, Any]) -> list[str]:
    """Cross-validation: mean and spread over the folds, and the figures over all records together."""
    size = f"{card['records']} records, each scored by a model that never saw it"
    lines = [f"cross-validation in {len(card['folds'])} folds ({size}), split {card['split']}:"]
    for name, head in card["heads"].items():
        lines.append(f"  {name} ({head['kind']}): mean and standard deviation over the folds; all records together, 95% interval")
        rows = [("", "this model", "all together", *head["baselines"])]
        for metric, figure in head["figures"].items():
            beside = [_spread(b[metric]) if metric in b else "" for b in head["baselines"].values()]
            pooled = _figure(head["pooled"][metric]) if metric in head["pooled"] else ""
            rows.append((metric, _spread(figure), pooled, *beside))
        lines += [f"  {line}" for line in table(rows)]
        lines += [f"    {line}" for line in fold_standing(head)]
    return lines


def _spread(figure: Mapping[str, float]) -> str:
    return f"{format_figure(figure['mean'])} \u00b1 {format_figure(figure['spread'], 2)}"


def _gate_lines(card: Mapping[str, Any]) -> list[str]:
    return [f"  gate: {row['metric']} {row['bound']}: {'passed' if row['passed'] else 'REFUSED'}" for row in card["gate"]]


def _language(card: Mapping[str, Any]) -> list[str]:
    size = f"{card['documents']} documents, {format_count(card['tokens'])} tokens, {format_size(card['bytes'])}"
    left = card["left_out"]["documents"]
    lines = [f"scorecard on the {card['part']} part ({size}{f'; {left} documents left out' if left else ''}), 95% intervals:"]
    rows = [(name, _figure(card["metrics"][name]), meaning) for name, meaning in _METRICS.items()]
    for name, figures in card["baselines"].items():
        rows.append((f"{name} baseline", _figure(figures["bits_per_byte"]), "bits_per_byte on the same bytes"))
    lines += table(rows)
    lines += [f"  note: {note}" for note in card.get("notes", [])]
    lines += _gate_lines(card)
    for sample in card["samples"]:
        text = (sample["prompt"] + "\u2038" + sample["text"]).splitlines()
        lines += ["  sample:", *(f"    | {line}" for line in text[:_SAMPLE_LINES])]
        lines += [f"    ({len(text) - _SAMPLE_LINES} more lines in the scorecard)"] * (len(text) > _SAMPLE_LINES)
    return lines


def package(found: Mapping[str, Any]) -> list[str]:
    """What was packed, beside what it was made from."""
    before, after = found["original"], found["package"]
    rows = [("", "trained", found["quantize"]), ("size", format_size(before["bytes"]), format_size(after["bytes"]))]
    for key, name, digits in (
        ("tokens_per_second", "tokens/s", 0), ("records_per_second", "records/s", 0), ("bits_per_byte", "bits_per_byte", 4),
        ("loss", "loss", 4),
    ):
        if key in before:
            rows.append((name, f"{before[key]:.{digits}f}", f"{after[key]:.{digits}f}"))
    drift = f"drift {found['drift']:+.2%}, {found['max_drift']:.2%} allowed"
    return ["package:", *table(rows), f"  {drift}"]


def _figure(figure: Mapping[str, float]) -> str:
    return f"{format_figure(figure['value'])}  ({format_figure(figure['low'])} to {format_figure(figure['high'])})"
