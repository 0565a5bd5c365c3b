"""Finders of keys, tokens and passwords: by the prefixes that their issuers document, and by the name they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

Span = tuple[int, int, str]

# What a token begins with, and its whole form. The beginning is looked for first: a plain substring search is fast.
_TOKENS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (prefix, re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(prefix)}{rest}(?![A-Za-z0-9_])"), kind)
    for prefix, rest, kind in (
        ("AKIA", r"[A-Z0-9]{16}", "AWS_KEY"),
        ("ASIA", r"[A-Z0-9]{16}", "AWS_KEY"),
        ("ghp_", r"[A-Za-z0-9]{36,}", "TOKEN"),
        ("gho_", r"[A-Za-z0-9]{36,}", "TOKEN"),
        ("ghu_", r"[A-Za-z0-9]{36,}", "TOKEN"),
        ("ghs_", r"[A-Za-z0-9]{36,}", "TOKEN"),
        ("ghr_", r"[A-Za-z0-9]{36,}", "TOKEN"),
        ("github_pat_", r"[A-Za-z0-9_]{36,}", "TOKEN"),
        ("glpat-", r"[A-Za-z0-9_-]{20,}", "TOKEN"),
        ("xox", r"[abeoprs]-[A-Za-z0-9-]{10,}", "TOKEN"),
        ("xapp-", r"[A-Za-z0-9-]{20,}", "TOKEN"),
        ("sk_live_", r"[A-Za-z0-9]{16,}", "TOKEN"),
        ("rk_live_", r"[A-Za-z0-9]{16,}", "TOKEN"),
        ("sk_test_", r"[A-Za-z0-9]{16,}", "TOKEN"),
        ("sk-", r"(?=[A-Za-z_-]{0,200}[0-9])(?=[a-z0-9_-]{0,200}[A-Z])[A-Za-z0-9_-]{20,200}", "TOKEN"),
        ("hf_", r"(?=[A-Za-z]*[A-Z])[A-Za-z]{30,}", "TOKEN"),
        ("npm_", r"(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{36}", "TOKEN"),
        ("pypi-", r"[A-Za-z0-9_-]{50,}", "TOKEN"),
        ("AIza", r"[A-Za-z0-9_-]{35}", "TOKEN"),
        ("ya29.", r"[A-Za-z0-9_-]{20,}", "TOKEN"),
        ("eyJ", r"[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", "TOKEN"),
    )
)

_PEM_BEGIN = "-----BEGIN "
_PEM = re.compile(  # with its end, or as far as it goes
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:(?!-----BEGIN )[\s\S]){0,20000}?-----END [A-Z0-9 ]{0,60}-----|(?:\\n|[\sA-Za-z0-9+/=:,.-]){40,}(?<!\s))"
)

_KEY_BODY = re.compile(r"[A-Za-z0-9+/=]{32}")  # what a text that only speaks of such blocks does not have

_URL = re.compile(r"://[^\s/:@\"'<>{}%]{0,64}:([^\s/:@\"'<>{}%$]{3,128})@[\w\[]")

_EXAMPLE = re.compile(r"pass|password|passwd|pwd|pw|secret|token|x+|\*+|\.+", re.IGNORECASE)

# A long value without spaces, quoted or ending its line; what makes it a secret is what stands before it.
_VALUE = re.compile(r"""[=:]\s{0,3}(?:[rbuf]{0,2}(["'])([^\s"'<>]{8,256})\1|([A-Za-z0-9+/_=~.-]{20,256})[ \t]*$)""", re.MULTILINE)
_NAME = re.compile(
    r"(password|passwd|passphrase|pwd)|secret|token|api_?-?key|access_?-?key|private_?-?key|auth_?-?key|credential", re.IGNORECASE
)
_NAME_TAIL = re.compile(r"""[\w.-]{0,32}["']?\]?(?:\s*:\s*\w[\w.\[\] |]{0,32})?\s{0,8}\Z""")
_HEX = re.compile(r"[0-9a-fA-F]+")
_LOOK_BACK = 80
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")


def tokens(text: str) -> Iterator[Span]:
    """Tokens of issuers whose format is public, JSON web tokens (RFC 7519), AWS access key ids."""
    for prefix, whole, kind in _TOKENS:
        if prefix in text:
            yield from ((*match.span(), kind) for match in whole.finditer(text))


def private_keys(text: str) -> Iterator[Span]:
    """PEM and PGP private key blocks (RFC 7468), also where the end is missing."""
    if _PEM_BEGIN in text:
        yield from ((*match.span(), "PRIVATE_KEY") for match in _PEM.finditer(text) if _KEY_BODY.search(match.group()))


def url_passwords(text: str) -> Iterator[Span]:
    """The password of ``scheme://user:password@host``."""
    if "://" in text:
        yield from ((*match.span(1), "PASSWORD") for match in _URL.finditer(text) if not _EXAMPLE.fullmatch(match.group(1)))


def assignments(text: str) -> Iterator[Span]:
    """Values that look random, given to something named password, secret, token or key."""
    for match in _VALUE.finditer(text):
        group = 2 if match.group(2) is not None else 3
        value = match.group(group)
        if group == 3 and not (_classes(value) >= 3 and _entropy(value) > 3.5):
            continue
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()].rpartition("\n")[2]
        names = list(_NAME.finditer(before))
        if not names or not _NAME_TAIL.match(before, names[-1].end()):
            continue
        if names[-1].group(1):
            if _classes(value) >= 3 and _entropy(value) > 2.5:
                yield (*match.span(group), "PASSWORD")
        elif len(value) >= (24 if _HEX.fullmatch(value) else 16) and _random(value):
            aws = "aws" in before.lower() and _AWS_SECRET.fullmatch(value)
            yield (*match.span(group), "AWS_KEY" if aws else "SECRET")


def _random(value: str) -> bool:
    return _classes(value) >= 2 and any(c.isdigit() for c in value) and _entropy(value) > 3.2


def _classes(value: str) -> int:
    """How many of small letters, capitals, digits, signs are in it."""
    kinds = (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    return sum(any(kind(c) for c in value) for kind in kinds)


def _entropy(value: str) -> float:
    """Bits per character, by the value's own character counts."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
