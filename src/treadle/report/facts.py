"""What an artifact is, in a few lines, from its manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from treadle.core.machine import way_in_words
from treadle.data.shards import PARTS
from treadle.spec.units import format_count, format_duration, format_size

_WIDTH = 72


def artifact_facts(manifest: Mapping[str, Any]) -> list[str]:
    """The lines for people; a figure that the manifest lacks is left out."""
    facts = [f"made {moment(manifest['created'])}"] if manifest.get("created") else []
    return facts + list(_KINDS[str(manifest["kind"])](manifest["counts"]))


def moment(stamp: object) -> str:
    """``2026-11-22 06:12 UTC`` from an ISO time or a datetime, which are in UTC here."""
    return f"{str(stamp).replace('T', ' ')[:16]} UTC"


def one_line(text: str) -> str:
    """``text`` on one line, its ends told by quotes, control characters as escapes, cut to a width."""
    shown = repr(text)
    return shown if len(shown) <= _WIDTH else shown[: _WIDTH - 4] + "..." + shown[-1]


def figure(value: Mapping[str, float], digits: int = 3) -> str:
    """``1.92 (1.88 to 1.96)``: a value with its 95% interval."""
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def _corpus(counts: Mapping[str, Any]) -> Iterator[str]:
    account = counts.get("account")
    if account:
        aside = ", ".join(f"{count} {reason}" for reason, count in account["set_aside"].items())
        yield f"{account['in']} records in = {account['kept']} kept + {sum(account['set_aside'].values())} set aside" + (
            f" ({aside})" if aside else ""
        )
    if "bytes" in counts:
        yield f"{format_size(counts['bytes'])} of content"
    if counts.get("redacted"):
        yield "redacted: " + ", ".join(f"{count} {kind}" for kind, count in counts["redacted"].items())


def _dataset(counts: Mapping[str, Any]) -> Iterator[str]:
    for part in PARTS:
        size = counts.get("parts", {}).get(part)
        if size and size.get("records"):
            yield f"{part}: {size['records']} records"
        elif size and size.get("documents"):
            yield f"{part}: {size['documents']} documents, {format_count(size['tokens'])} tokens, {format_size(size['bytes'])}"
    if "vocabulary" in counts:
        yield f"vocabulary {counts['vocabulary']}, {counts['bytes_per_token']:.2f} bytes per token"


def _model(counts: Mapping[str, Any]) -> Iterator[str]:
    if "parameters" in counts:
        yield f"{format_count(counts['parameters'])} parameters"
    unit = counts.get("unit", "tokens")
    if "steps" in counts:
        speed = f", {format_count(counts['tokens_per_second'])} {unit}/s" if counts.get("tokens_per_second") else ""
        budget = f" (budget {counts['budget']})" if counts.get("budget") else ""
        yield (
            f"{counts['steps']} steps, {format_count(counts['tokens'])} {unit} in {format_duration(counts['seconds'])}"
            f"{budget}{speed}"
        )
    if counts.get("validation_loss") is not None:
        each = " nats per token" if unit == "tokens" else ""
        yield f"loss {counts['loss']:.3f}, validation {counts['validation_loss']:.3f}{each}"
    yield from gone_on(counts)


def gone_on(counts: Mapping[str, Any]) -> Iterator[str]:
    """From which training a model's went on, how its loss was scaled, and which steps were computed on another device, in another
    precision or by other threads than its last ones."""
    if begun := counts.get("went_on_from"):
        yield f"went on from step {begun['step']} of {begun['model']}"
    if scale := counts.get("loss_scale"):
        count = scale["left_out"]
        overflows = f", {count} step{'s' * (count > 1)} left out, since the gradients overflowed" if count else ""
        yield f"the loss was multiplied by {scale['value']:g} at the end for fp16{overflows}"
    runtime = counts.get("runtime") or {}
    for part in runtime.get("earlier") or ():
        yield f"from step {part['since'] + 1} computed on {way_in_words(part)}, later on another: exact but for rounding"


def _scorecard(counts: Mapping[str, Any]) -> Iterator[str]:
    if counts.get("kind") == "folds":
        yield f"{len(counts['folds'])} folds of {counts['records']} records, split {counts['split']}"
        for name, head in counts["heads"].items():
            yield f"{name}: " + "; ".join(
                f"{metric} {value['mean']:.3f} \u00b1 {value['spread']:.3f}" for metric, value in head["figures"].items()
            )
        return
    if counts.get("kind") == "records":
        fold = counts.get("fold")
        yield (f"fold {fold['number']} of {fold['of']}" if fold else f"{counts['part']} part") + f": {counts['records']} records"
        for name, head in counts["heads"].items():
            yield f"{name}: " + "; ".join(
                f"{metric} {figure(value)}" for metric, value in head["metrics"].items() if math.isfinite(value["value"])
            )
        yield from _gate(counts)
        return
    yield f"{counts['part']} part: {counts['documents']} documents, {format_count(counts['tokens'])} tokens"
    metrics = {**counts["metrics"], **{f"{name} baseline": row["bits_per_byte"] for name, row in counts["baselines"].items()}}
    yield "; ".join(f"{name.replace('_', ' ')} {figure(value)}" for name, value in metrics.items())
    yield from _gate(counts)


def _gate(counts: Mapping[str, Any]) -> Iterator[str]:
    for row in counts["gate"]:
        yield f"gate {row['metric'].replace('_', ' ')} {row['bound']}: {'passed' if row['passed'] else 'refused'}"


def _package(counts: Mapping[str, Any]) -> Iterator[str]:
    before, after = counts["original"], counts["package"]
    yield f"{counts['quantize']}: {format_size(before['bytes'])} -> {format_size(after['bytes'])}"
    unit = "tokens" if "tokens_per_second" in before else "records"
    yield f"{before[f'{unit}_per_second']:.0f} -> {after[f'{unit}_per_second']:.0f} {unit}/s"
    measure = counts.get("measure", "bits per byte")
    key = measure.replace(" ", "_")
    yield f"{measure} {before[key]:.4f} -> {after[key]:.4f}, drift {counts['drift']:+.2%}"


_KINDS: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "corpus": _corpus, "dataset": _dataset, "model": _model, "scorecard": _scorecard, "package": _package,
}
