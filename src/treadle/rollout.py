"""``treadle rollout``: a candidate is put beside the live version, looked at, and promoted or taken out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from treadle.core.errors import UserError
from treadle.spec.rollout import Rollout as Settings
from treadle.spec.units import parse_fraction
from treadle.store.ledger import Ledger
from treadle.store.rollouts import KINDS, Rollout
from treadle.store.standing import standing

Told = tuple[dict[str, Any], Sequence[str]]
"""A JSON document, and lines for people."""


_OF_IT = ("status", "promote", "stop")


def act(
    ledger: Ledger, settings: Settings, word: str, candidate: str | None, share: str | None, alpha: str | None, reason: str
) -> Told:
    """Do what ``word`` says. ``share`` and ``alpha`` as people write them; None: as ``settings`` have them for that word. Raises
    ``UserError``."""
    if word in _OF_IT:
        if not all(given is None for given in (candidate, share, alpha)):
            cure = "leave out what stands after it"
            raise UserError(f"'treadle rollout {word}' is of the candidate that there is", cure=cure)
        return _looked(ledger) if word == "status" else _ended(ledger, word, reason)
    kind = next((kind for kind in KINDS if kind == word), None)
    if kind is None:
        raise UserError(f"'treadle rollout {word}': there is no such word", cure=f"words: {', '.join((*KINDS, *_OF_IT))}")
    own = settings.share if settings.kind == kind else None
    part = own if share is None else _fraction("--share", share)
    chance = settings.alpha if alpha is None else _fraction("--alpha", alpha)
    made = ledger.start_rollout(kind, _named(candidate), reason, part, chance)
    return {"live": ledger.must_be_live()["version"], "rollout": plain(made)}, begun(plain(made))


def plain(rollout: Rollout) -> dict[str, Any]:
    """JSON values."""
    return asdict(rollout) | {"at": rollout.at.isoformat()}


def begun(rollout: dict[str, Any]) -> list[str]:
    """What a rollout that was just begun does, for people."""
    what = {
        "canary": "answers {share:.0%} of requests",
        "shadow": "gets copies of {share:.0%} of requests, and no one sees its answers",
        "ab": "answers {share:.0%} of requests, until it is known whether it is better",
    }[rollout["kind"]].format(share=rollout["share"])
    return [
        f"version {rollout['version']} ({rollout['package']}) {what}; a running server follows by itself",
        "  how it stands:  treadle rollout status",
    ]


def _looked(ledger: Ledger) -> Told:
    found = standing(ledger)
    return found.as_dict(), found.lines()


def _ended(ledger: Ledger, word: str, reason: str) -> Told:
    if word == "stop":
        left = ledger.stop_rollout(reason)
        live = ledger.must_be_live()["version"]
        line = f"version {left.version} takes no more requests; version {live} answers them all"
        return {"live": live, "stopped": plain(left)}, [line]
    before = ledger.must_be_live()["version"]
    version = ledger.promote_candidate(reason)
    line = f"version {version} is live in place of version {before}; a running server changes over by itself"
    return {"live": version, "before": before}, [line, "  to go back:  treadle rollback"]


def _named(candidate: str | None) -> str | int | None:
    match = re.fullmatch(r"[vV]?(\d{1,9})", candidate.strip()) if candidate is not None else None
    return int(match.group(1)) if match else candidate


def _fraction(option: str, text: str) -> float:
    try:
        return float(parse_fraction(text))
    except ValueError as error:
        raise UserError(f"{option} {text!r}: {error}", cure="write a share such as 5% or 0.05") from None
