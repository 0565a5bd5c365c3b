"""Where a training's time went, with advice: by part of a step, and by operation where it was profiled. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.spec.units import format_count, format_duration, significant

_MUCH = (
    ("data", 0.2, "making batches takes {}: fewer random changes (augment) or smaller pictures make it less"),
    ("optimizer", 0.3, "new weights take {}, however few examples they are computed from: raise train.batch, or choose a "
                       "train.optimizer that remembers less"),
    ("validation", 0.25, "validation takes {}: raise train.validate_every, or lower train.validate_tokens"),
    ("checkpoints", 0.1, "writing checkpoints takes {}: raise train.checkpoint_every"),
    ("boards", 0.1, "those who watch take {}: leave out train.profile and train.log_to"),
)
_WORTH = 30.0  # seconds of a training; in a shorter one no part is worth saving
_SMALL = 20e-6  # seconds of an operation of which its start is a good part
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn", "convolution", "attention")


def judge_spending(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model's counts: ``seconds`` and ``shares`` by part, the largest first; ``profile`` as it was recorded, or None; and
    ``advice`` in sentences. Empty for a model that was trained before this was noted."""
    spent = counts.get("spent")
    if not spent:
        return {}
    seconds = {**spent, "other": significant(max(0.0, counts["seconds"] - sum(spent.values())))}
    total = sum(seconds.values()) or 1.0
    seconds = dict(sorted(seconds.items(), key=lambda pair: -pair[1]))
    shares = {name: significant(amount / total) for name, amount in seconds.items()}
    profile = counts.get("profile")
    return {"seconds": seconds, "shares": shares, "profile": profile, "advice": _advice(shares, profile, total >= _WORTH)}


def _advice(shares: Mapping[str, float], profile: Mapping[str, Any] | None, worth: bool) -> list[str]:
    found = [words.format(f"{shares[name]:.0%} of the time") for name, most, words in _MUCH if worth and shares.get(name, 0) > most]
    if not profile:
        return found
    each = profile["in_operations"] / max(profile["calls"], 1)
    if each < _SMALL:
        found.append(
            f"a step is {profile['calls']} operations of {each * 1e6:.0f} microseconds in the mean, a good part of which is their "
            "start: raise train.batch, and as many do more work"
        )
    between = 1 - profile["in_operations"] / profile["seconds"] - shares.get("data", 0)
    if between > 0.3:
        words = "of a step lies between operations, in Python: raise train.batch, or take a wider trunk of fewer layers"
        found.append(f"{between:.0%} {words}")
    share = sum(row["share"] for row in profile["operations"] if any(name in row["name"] for name in _PRODUCTS))
    if share > 0.6:
        found.append(
            f"{share:.0%} of the time in operations is matrix products, as it should be: only a smaller model, fewer tokens or "
            "records, or a faster machine take less"
        )
    return found


def spending_lines(found: Mapping[str, Any]) -> list[str]:
    """For the terminal, of what ``judge_spending`` gave."""
    shares = [f"{name} {share:.0%}" for name, share in found["shares"].items() if share >= 0.005]
    lines = [f"training's time: {', '.join(shares)}"]
    if profile := found["profile"]:
        lines.append(profile_words(profile) + ":")
        lines += [f"  {name:38.38}  {share:>6}  {calls:>9}  {each}" for name, share, calls, each in operation_rows(profile)]
    return lines + [f"  {words}" for words in found["advice"]]


def profile_words(profile: Mapping[str, Any]) -> str:
    return f"of {profile['steps']} steps of {format_duration(profile['seconds'])}, the costliest of {profile['calls']} operations"


def operation_rows(profile: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, share, calls a step, time of each."""
    return [
        (row["name"], f"{row['share']:.1%}", f"{format_count(significant(row['calls'], 3))} x",
         f"{significant(row['seconds'] / row['calls'] * 1e6, 3):g} µs")
        for row in profile["operations"]
    ]
