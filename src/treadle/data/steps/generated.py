"""Files that say of themselves that a program wrote them."""

from __future__ import annotations

import re

_HEAD = 1500  # characters; who writes such a note writes it at the top
_LINES = 20
_NOTE = re.compile(
    r"\bdo not (?:edit|modify)\b|@generated\b|\bauto-?generated\b|\b(?:automatically|machine)[ -]generated\b"
    r"|^\W*this (?:file|module|code) (?:is|was|has been) generated\b|^\W*generated (?:by|from)\b"
    r"|\bgenerated (?:by|from|with|using)\b.*\b[\w-]+\.(?:py|pl|sh|rb|js|txt|y|l|g4|proto|xml)\b",
    re.IGNORECASE | re.MULTILINE,
)


def generated_note(text: str) -> str:
    """The line at the top of ``text`` that says so, or ""."""
    head = "\n".join(text[:_HEAD].splitlines()[:_LINES])
    match = _NOTE.search(head)
    if not match:
        return ""
    start = head.rfind("\n", 0, match.start()) + 1
    return head[start:].partition("\n")[0].strip()[:200]
