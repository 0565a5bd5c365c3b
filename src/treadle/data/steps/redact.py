"""Secrets and personal data in text, replaced by typed placeholders such as ``<EMAIL>``.

A finder yields the spans of one kind. Each first looks for something cheap and rare (``@``, ``AKIA``, a run of digits) and only
there does the careful work, so that source code passes at tens of megabytes a second. What is found and what is not is
measured in docs/redaction.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from treadle.data.steps import credentials, personal

Span = tuple[int, int, str]
Moves = list[list[tuple[int, int, int]]]
"""Passes over a text, one after the other, each (start, end, length of what stands there now) from left to right (characters)."""
Finder = Callable[[str], Iterator[Span]]

SECRETS: tuple[Finder, ...] = (credentials.private_keys, credentials.tokens, credentials.url_passwords, credentials.assignments)
PERSONAL: tuple[Finder, ...] = (personal.emails, personal.ibans, personal.numbers)


def redact(text: str, secrets: bool = True, pii: bool = True) -> tuple[str, Counter[str]]:
    """``text`` with placeholders, and how many of each kind. A second pass finds nothing more."""
    return redact_and_tell(text, secrets, pii)[:2]


def redact_and_tell(text: str, secrets: bool = True, pii: bool = True) -> tuple[str, Counter[str], Moves]:
    """The same, and what stands elsewhere since."""
    finders = (SECRETS if secrets else ()) + (PERSONAL if pii else ())
    counts: Counter[str] = Counter()
    moves: Moves = []
    while spans := _apart(sorted(span for finder in finders for span in finder(text))):
        pieces, at = [], 0
        for start, end, kind in spans:
            pieces += [text[at:start], f"<{kind}>"]
            at = end
            counts[kind] += 1
        text = "".join([*pieces, text[at:]])
        moves.append([(start, end, len(kind) + 2) for start, end, kind in spans])
    return text, counts, moves


def _apart(spans: list[Span]) -> list[Span]:
    """Where spans overlap, the one that starts first, and of these the longest."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept
