"""Quantities as people write them: ``5%``, ``3 min``, ``200 KB``, ``2M tokens``.

Each parser takes what YAML gave (a number or a string) and returns a plain number, or raises ``ValueError`` with the forms
that are allowed. Each formatter is its inverse for people.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)"
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86400, "d": 86400}
_BYTES = {"b": 1, "byte": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def _split(value: object, units: Mapping[str, float], what: str, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{what} is written like {example}")
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([a-zA-Z]*)\s*", str(value))
    unit = match.group(2).lower() if match else ""
    for name in (unit, unit.removesuffix("s")):
        if match and name in units and (number := float(match.group(1)) * units[name]) < math.inf:
            return number
    raise ValueError(f"{what} is written like {example}")


def parse_duration(value: object) -> float:
    """Seconds (float) from ``90 s``, ``3 min``, ``1.5 h``, ``2 days``; a bare number is refused, since its unit is unknown."""
    return _split(value, _SECONDS, "a duration", "'90 s', '3 min' or '2 h'")


def parse_size(value: object) -> int:
    """Bytes (int) from ``200 KB``, ``1.5 MiB``; a bare number means bytes."""
    return round(_split(value, _BYTES | {"": 1}, "a size", "'200 KB' or '1.5 MiB'"))


def parse_count(value: object) -> int:
    """A whole number from ``500``, ``2M``, ``1.5k``."""
    number = _split(value, _COUNTS, "a count", "'500', '20k' or '2M'")
    if number != int(number):
        raise ValueError("a count is a whole number, like '500', '20k' or '2M'")
    return int(number)


def parse_fraction(value: object) -> float:
    """A share in [0, 1] from ``5%`` or ``0.05``."""
    text = str(value).strip()
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("a share is written like '5%' or 0.05, from 0 to 1")
    return number


@dataclass(frozen=True)
class Budget:
    """How long to train: ``amount`` of ``unit``, one of steps, tokens, epochs, seconds."""

    amount: float
    unit: str

    def __str__(self) -> str:
        if self.unit == "seconds":
            return format_duration(self.amount)
        return f"{format_count(self.amount)} {self.unit}"

    def exact(self) -> str:
        """As ``parse_budget`` reads back to the last digit."""
        return f"{_exact(self.amount)} {self.unit}"


def parse_budget(value: object) -> Budget:
    """A budget from ``500 steps``, ``2M tokens``, ``1.5 epochs``, or a duration such as ``3 min``."""
    forms = "a budget is written like '500 steps', '2M tokens', '3 epochs' or '3 min'"
    text = str(value).strip()
    match = re.fullmatch(r"(.*?)\s*(steps?|tokens?|epochs?)", text)
    try:
        if not match:
            budget = Budget(parse_duration(text), "seconds")
        elif match.group(2).startswith("epoch"):
            budget = Budget(float(match.group(1)), "epochs")
        else:
            budget = Budget(parse_count(match.group(1)), match.group(2).removesuffix("s") + "s")
    except ValueError:
        raise ValueError(forms) from None
    if not (0 < budget.amount < math.inf):
        raise ValueError(f"{forms}, and is more than nothing")
    return budget


def parse_share_or_steps(value: object) -> float | Budget:
    """A share in [0, 1] from ``5%`` or ``0.05``, or a number of steps from ``100 steps``."""
    if isinstance(value, Budget):
        return value
    match = re.fullmatch(r"(.*?)\s*steps?", str(value).strip())
    try:
        return Budget(parse_count(match.group(1)), "steps") if match else parse_fraction(value)
    except ValueError:
        raise ValueError("a share or a number of steps is written like '5%', 0.05 or '100 steps'") from None


@dataclass(frozen=True)
class Bound:
    """A limit on a figure, such as ``<= 2.0``."""

    sign: str
    value: float

    def holds(self, figure: float) -> bool:
        """Whether ``figure`` keeps to the bound; NaN never does."""
        return figure <= self.value if self.sign == "<=" else figure >= self.value

    def __str__(self) -> str:
        """As ``parse_bound`` reads back to the last digit."""
        return f"{self.sign} {_exact(self.value)}"


def parse_bound(value: object) -> Bound:
    """A bound from ``<= 2.0`` or ``>= 50%``."""
    match = re.fullmatch(rf"\s*(<=|>=)\s*([-+]?){_NUMBER}\s*(%?)\s*", str(value))
    number = float(match.group(2) + match.group(3)) if match else math.inf
    if not match or not math.isfinite(number):
        raise ValueError("a bound is written like '<= 2.0' or '>= 50%'")
    return Bound(match.group(1), number / (100 if match.group(4) else 1))


def _exact(number: float) -> str:
    """The shortest text that reads back as the same number, whole numbers without a fraction."""
    return str(int(number)) if number == int(number) and abs(number) < 2**53 else repr(float(number))


def significant(value: float, digits: int = 4) -> float:
    """Rounded to ``digits`` significant digits, for figures that people read."""
    return float(f"{value:.{digits}g}")


def format_figure(value: float, digits: int = 4, sign: str = "") -> str:
    """``0.9806``, ``44,560``, ``1.2e-07``: so many significant digits, large numbers in full; with ``sign`` "+" never without."""
    rounded = significant(value, digits)
    return f"{rounded:{sign},.0f}" if 10**digits <= abs(rounded) < 1e15 else f"{rounded:{sign}.{digits}g}"


def format_duration(seconds: float) -> str:
    """``0.45 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_size(count: float) -> str:
    """``512 B``, ``1.2 MB``, decimal units."""
    if abs(count) < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if abs(count) < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def format_count(count: float) -> str:
    """``950``, ``12.2k``, ``3.4M``, ``1.2G``: three figures, whole numbers below 10,000 in full."""
    if count == int(count) and abs(count) < 10_000:
        return str(int(count))
    rounded = float(f"{count:.3g}")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(rounded) >= size:
            return f"{rounded / size:.6g}{unit}"
    return f"{rounded:g}"
