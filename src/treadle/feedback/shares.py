"""How much of what users taught may come of one key: a flood by one does not outweigh what all others say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from treadle.data.chance import point_of
from treadle.data.record import Record

OVER = "over its key's share"
"""Why a record is set aside that is usable, but one too many of its key."""
AGAIN = "edited again by its key"
"""Why an edit is set aside to whose prompt, or record, the same key gave a later one."""


def most_of_each(counts: Mapping[str, int], free: int, share: float, least: int) -> int | None:
    """How many pieces of feedback each key may have at most; None: there is no bound.

    ``counts`` are the usable pieces by key, ``free`` those that came by none and have no bound. The bound holds where those of all
    but the largest key are at least ``least``: a project with one app has no one whom it could outweigh. It is the largest for
    which no key is over ``share`` of what is left, or over an equal share where the senders are too few for that.
    """
    senders = len(counts) + bool(free)
    largest = max(counts.values(), default=0)
    others = free + sum(counts.values()) - largest
    if senders < 2 or others < least:
        return None
    share, most = max(share, 1 / senders), largest
    while most > (bound := share * (free + sum(min(count, most) for count in counts.values())) + 1e-9):
        most = int(bound)
    return None if most == largest else most


def over_share(records: Iterable[tuple[Record, str | None]], share: float, least: int, seed: int) -> set[str]:
    """Ids of the records that are too many of their key. Which of a key's own stay is drawn by their answers' ids, which the server
    made: no one chooses them, and what stays goes on doing so as feedback grows."""
    by_key: dict[str | None, list[Record]] = defaultdict(list)
    for record, key in records:
        by_key[key].append(record)
    free = len(by_key.pop(None, []))
    most = most_of_each({key: len(found) for key, found in by_key.items() if key is not None}, free, share, least)
    if most is None:
        return set()
    return {
        record.id for found in by_key.values()
        for record in sorted(found, key=lambda record: point_of(record.source, seed))[most:]
    }


def told(rows: Sequence[Mapping[str, Any]], kept: Iterable[str | None]) -> list[dict[str, Any]]:
    """By key, the one that gave most first: its name (None: no key), pieces ``given`` and ``kept``."""
    given, used = Counter(row.get("key") for row in rows), Counter(kept)
    return [{"key": key, "given": count, "kept": used[key]} for key, count in given.most_common()]
