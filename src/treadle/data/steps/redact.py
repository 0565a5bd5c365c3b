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
Finder = Callable[[str], Iterator[Span]]

SECRETS: tuple[Finder, ...] = (credentials.private_keys, credentials.tokens, credentials.url_passwords, credentials.assignments)
PERSONAL: tuple[Finder, ...] = (personal.emails, personal.ibans, personal.numbers)


def redact(text: str, secrets: bool = True, pii: bool = True) -> tuple[str, Counter[str]]:
    """``text`` with placeholders, and how many of each kind. A second pass finds nothing more."""
    finders = (SECRETS if secrets else ()) + (PERSONAL if pii else ())
    counts: Counter[str] = Counter()
    while spans := _apart(sorted(span for finder in finders for span in finder(text))):
        pieces, at = [], 0
        for start, end, kind in spans:
            pieces += [text[at:start], f"<{kind}>"]
            at = end
            counts[kind] += 1
        text = "".join([*pieces, text[at:]])
    return text, counts


def _apart(spans: list[Span]) -> list[Span]:
    """Where spans overlap, the one that starts first, and of these the longest."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept
