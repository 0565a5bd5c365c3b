"""A plan, and what became of it, as lines for people. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from treadle.spec.units import format_count, format_duration, format_size


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """``Plan.as_dict()`` as a page of text: the verdict first."""
    shape, data, work = plan["shape"], plan["data"], plan["work"]
    lines = [f"{plan['name']}: {plan['verdict']}"]
    if plan["cure"]:
        lines.append(f"  cure: {plan['cure']}")
    lines += ["", "model"]
    lines += table([
        ["parameters", format_count(plan["parameters"]), f"{shape['depth']} layers of width {shape['width']}, "
         f"vocabulary {shape['vocabulary']}, context {shape['context']}"],
        ["batch", f"{plan['batch']} x {shape['context']}", f"{format_count(plan['tokens_per_step'])} tokens a step"],
        ["data", format_size(data["bytes"]), f"{data['files']} files; about {format_count(data['train'])} tokens to train on, "
         f"{format_count(data['validation'])} to watch it, {format_count(data['test'])} to test"],
    ])
    if work:
        lines += table([
            ["budget", plan["budget"], f"{format_count(work['steps'])} steps, {format_count(work['tokens'])} tokens, "
             f"{work['epochs']:.2g} passes over the data"],
            ["FLOPs", f"{work['flops']:.2g}", f"{plan['flops_per_token'] / 1e6:.3g} million per token"],
        ])
    else:
        lines += table([["budget", plan["budget"], ""]])
    lines += chosen_lines(plan["derived"])
    lines += ["", f"stages (memory {plan['limit_source']}: {format_size(plan['memory_limit'])})"]
    rows = [["", "time", "peak memory", ""]]
    for stage in plan["stages"]:
        rows.append([stage["stage"], _time(stage["seconds"]), format_size(stage["memory"]), stage["basis"]])
    rows.append(["all", _time(plan["seconds"]), format_size(plan["peak_memory"]), ""])
    lines += table(rows)
    lines += ["", "cost"]
    cost = [["disk", format_size(sum(plan["disk"].values())), f"at most; {format_size(plan['disk_free'])} is free"]]
    if plan["energy_kwh"] is not None:
        cost.append(["energy", f"{plan['energy_kwh'] * 1000:.3g} Wh", ""])
        cost.append(["money", f"{money(plan['money'])} {plan['currency']}", ""])
    lines += table(cost)
    lines += ["", "rests on"]
    lines += table([[a["what"], a["value"], f"({a['source']})"] for a in plan["assumptions"]])
    lines += [f"note: {note}" for note in plan["notes"]]
    return lines


def chosen_lines(derived: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that were measured, or follow from the memory, each with its reason."""
    return [f"  {row['key']} {row['value']}: {row['reason']}" for row in derived if row["key"] == "accumulate" or row.get("curve")]


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    """``compare(...)`` as a table: predicted beside measured."""
    rows = [["", "predicted", "measured", "measured / predicted"]]
    for row in comparison["stages"]:
        measured = ["", "cached"] if row["cached"] else [_time(row["measured"]), f"{row['ratio']:.2f}"]
        rows.append([row["stage"], _time(row["predicted"]), *measured])
    total = comparison["total"]
    if total["ratio"] is not None:
        rows.append(["all that ran", _time(total["predicted"]), _time(total["measured"]), f"{total['ratio']:.2f}"])
    memory = comparison["peak_memory"]
    rows.append(["peak memory", format_size(memory["predicted"]), format_size(memory["measured"]), ratio_text(memory["ratio"])])
    return table(rows)


def ratio_text(ratio: float | None) -> str:
    """Two decimals, or nothing where there is nothing to compare."""
    return "" if ratio is None else f"{ratio:.2f}"


def money(amount: float) -> str:
    """Two decimals, or two digits of what is less than that."""
    return f"{amount:.2f}" if amount >= 0.1 else f"{amount:.2g}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned to the left, two spaces in and between."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _time(seconds: float | None) -> str:
    return "not timed" if seconds is None else format_duration(seconds)
