"""What the columns of a table that was never seen are likely to be: kinds, the target, the head. Every guess has its reason."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.data.fields.base import BadValue, text_of
from treadle.data.fields.category import FALSE, TRUE
from treadle.data.fields.date import parse_moment
from treadle.data.fields.number import parse_number

TARGETS = (
    "target", "label", "labels", "y", "survived", "outcome", "income", "price", "diagnosis", "default", "churn", "churned",
    "response", "result", "category", "sentiment", "species", "quality", "class", "score", "rating", "status",
)
"""Names that people give to what is to be predicted; a name that ends in one counts too, as in ``median_house_value``."""
_TARGET_ENDS = ("_target", "_label", "_class", "_judgment", "_value", "_price", "_outcome")
MISSING = ("?", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "none", "-", ".", "#N/A", "-999", "-9999")
_ALWAYS = {"", "?", "NA", "N/A", "#N/A", "nan", "NaN", "null", "None"}
"""What a source takes for missing anyway."""
_NAMES = 50
"""Different names from which a column of words is text or identifiers rather than categories, in a small table."""
_NUMBERS = 20
"""Different numbers from which a target is a quantity."""
_WORDS = 4.0  # on average, from which it is running text


@dataclass(frozen=True)
class Guess:
    """One column: its kind, or "" where it is left out, and why."""

    column: str
    kind: str
    reason: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: bool = False


@dataclass(frozen=True)
class TableGuess:
    columns: tuple[Guess, ...]
    missing: tuple[str, ...]
    """Marks beside those that are taken for missing anyway."""

    @property
    def target(self) -> Guess:
        return next(guess for guess in self.columns if guess.target)


def guess_header(cells: Sequence[str], below: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether the first row names the columns, and why: names are no numbers, stand once, and no row below holds one of them."""
    if any(_is_number(cell) for cell in cells):
        return False, "the first line holds numbers"
    if len(set(cells)) < len(cells):
        return False, "the first line holds a text twice"
    again = sum(cell in {row[n] for row in below if n < len(row)} for n, cell in enumerate(cells) if cell)
    if again:
        return False, "the first line's texts stand below too"
    return True, "the first line holds texts that do not stand below"


def guess_encoding(data: bytes) -> tuple[str, str]:
    """The text encoding of a file's bytes, and why."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", "it begins with the byte order mark of UTF-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4:
            return "cp1252" if not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1", f"byte {error.start} is not UTF-8"
    return "utf-8", "all bytes are UTF-8"


def guess_quoted(lines: Sequence[str], mark: str) -> bool:
    """Whether quotes close cells there: taken so unless reading it so swallows lines."""
    plain = list(csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE))
    quoted = list(csv.reader(lines, delimiter=mark))
    widths = Counter(len(row) for row in plain)
    return not (len(quoted) < len(plain) and widths and widths.most_common(1)[0][1] == len(plain))


def guess_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]], target: str | None = None) -> TableGuess:
    """Kinds of the columns ``names`` from their values in ``rows``."""
    marks = _marks(names, rows)
    missing = _ALWAYS | set(marks)
    values = {name: [_plain(row.get(name), missing) for row in rows] for name in names}
    kinds = {name: guess_column(name, values[name]) for name in names}
    chosen, why = _target(names, kinds, values, target)
    found = []
    for name in names:
        if name == chosen:
            kind, reason = _head(values[name])
            found.append(Guess(name, kind, f"the answer: {why}; {reason}", target=True))
        else:
            found.append(kinds[name])
    known = [value for value in values[chosen] if value is not None]
    for number, guess in enumerate(found):  # another spelling of the answer would give it away
        if guess.kind and not guess.target and _same(values[guess.column], values[chosen]) and len(known) >= 20:
            found[number] = Guess(guess.column, "", f"left out: says the same as {chosen!r} in other words")
    return TableGuess(tuple(found), marks)


def guess_column(name: str, values: Sequence[Any]) -> Guess:
    """The kind of an input."""
    known = [value for value in values if value is not None]
    texts = [str(text_of(value)) if not isinstance(value, (list, dict, bytes)) else "" for value in known]
    kinds = Counter(texts)
    if not known:
        return Guess(name, "", "left out: it holds nothing")
    if any(isinstance(value, list) for value in known):
        return Guess(name, "set", "holds lists")
    if any(isinstance(value, (dict, bytes)) for value in known):
        return Guess(name, "", "left out: holds objects or bytes")
    if len(kinds) == 1:
        return Guess(name, "", f"left out: always {texts[0][:30]!r}" + (" or missing" if len(known) < len(values) else ""))
    unique = len(kinds) == len(known) and len(known) >= 20
    if all(_is_number(text) for text in kinds) and not _all(kinds, TRUE | FALSE):
        numbers = [float(text) for text in texts]
        whole = all(number == int(number) for number in numbers)
        steps = {b - a for a, b in itertools.pairwise(numbers)}
        if unique and whole and (steps == {1.0} or _named_id(name)):
            return Guess(name, "", "left out: numbers the rows")
        if _named_id(name) and whole and len(kinds) > len(known) / 2:
            return Guess(name, "", "left out: an identifier by its name")
        return Guess(name, "number", f"numbers, {len(kinds)} different")
    if _all({kind.lower() for kind in kinds}, TRUE | FALSE):
        return Guess(name, "boolean", f"only {' and '.join(sorted(kinds))}")
    if all(_is_date(value) for value in known[:200]):
        return Guess(name, "date", f"days or moments such as {texts[0][:19]}")
    words = sum(len(text.split()) for text in texts) / len(texts)
    if (words >= _WORDS and len(kinds) > len(known) / 2) or sum(map(len, texts)) / len(texts) > 60:
        return Guess(name, "text", f"{words:.0f} words on average")
    parts = _parts(texts)
    if parts:
        mark, different = parts
        return Guess(name, "set", f"names with {mark!r} between them, {different} different", {"separator": mark})
    if len(kinds) > max(_NAMES, len(known) / 2):
        return Guess(name, "", f"left out: {len(kinds)} different texts in {len(known)} rows, so likely an identifier")
    return Guess(name, "category", f"{len(kinds)} different names")


def _marks(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Marks of missing values that stand in columns which are numbers but for them."""
    found = set()
    for name in names:
        cells = [row.get(name) for row in rows]
        texts = {text for cell in cells if not isinstance(cell, (bytes, list, dict)) and (text := text_of(cell))}
        odd = {text for text in texts if not _is_number(text)} - _ALWAYS
        if odd and odd <= set(MISSING) and len(texts) - len(odd) > 5:
            found |= odd
    return tuple(sorted(found))


def _target(
    names: Sequence[str], kinds: Mapping[str, Guess], values: Mapping[str, Sequence[Any]], given: str | None
) -> tuple[str, str]:
    if given:
        return given, "named on the command line"
    plain = {name: re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names}
    for wanted in TARGETS:
        for name in names:
            if plain[name] == wanted and _learnable(values[name]):
                return name, "by its name"
    for name in reversed(names):
        if plain[name].endswith(_TARGET_ENDS) and _learnable(values[name]):
            return name, "by the end of its name"
    for name in reversed(names):
        if (kinds[name].kind in ("category", "number", "boolean")) and _learnable(values[name]):
            return name, "the last column" if name == names[-1] else "the last column that can be one"
    return names[-1], "the last column"


def _learnable(values: Sequence[Any]) -> bool:
    kinds = {str(value) for value in values if value is not None}
    return len(kinds) >= 2 and (len(kinds) < len(values) / 2 or all(_is_number(kind) for kind in kinds))


def _head(values: Sequence[Any]) -> tuple[str, str]:
    kinds = {str(text_of(value)) for value in values if value is not None}
    if len(kinds) == 2:
        return "binary", f"two values, {' and '.join(sorted(kinds))}"
    whole = all(_is_number(kind) and float(kind) == int(float(kind)) for kind in kinds)
    if all(_is_number(kind) for kind in kinds) and (len(kinds) > _NUMBERS or not whole):
        return "number", f"numbers, {len(kinds)} different"
    return "category", f"{len(kinds)} different values"


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two columns of few values stand for each other, row by row."""
    pairs = {(str(a), str(b)) for a, b in zip(one, other, strict=True) if b is not None}
    left, right = {a for a, _ in pairs}, {b for _, b in pairs}
    return 2 <= len(left) == len(right) == len(pairs) <= len(one) / 4


def _parts(texts: Sequence[str]) -> tuple[str, int] | None:
    """The sign between the names of a set, where most texts hold it and the names come again."""
    for mark in ("|", ";", ","):
        with_it = sum(mark in text for text in texts)
        names = [part.strip() for text in texts for part in text.split(mark) if part.strip()]
        if with_it > 0.3 * len(texts) and len(set(names)) <= min(200, len(names) / 4):
            return mark, len(set(names))
    return None


def _plain(value: Any, missing: set[str]) -> Any:
    if not isinstance(value, str):
        return None if isinstance(value, float) and value != value else value
    return None if value.strip() in missing else value.strip()


def _all(kinds: Any, among: frozenset[str]) -> bool:
    """Two of ``among`` at most; 0 and 1 say nothing of being more than numbers."""
    return set(kinds) <= among and len(set(kinds)) <= 2


def _named_id(name: str) -> bool:
    return bool(re.fullmatch(r"(.*[_\s-])?(id|index|key|uuid|no|nr|number|column 1)|.*ID|Unnamed: \d+", name, re.IGNORECASE))


def _is_number(text: str) -> bool:
    try:
        return parse_number(text) is not None
    except BadValue:
        return False


def _is_date(value: Any) -> bool:
    if isinstance(value, str) and not re.search(r"\d{4}-\d|\d[/.]\d+[/.]\d|\d{1,2} [A-Za-z]{3}|[A-Za-z]{3} \d{1,2}", value):
        return False
    try:
        return not isinstance(value, (int, float)) and parse_moment(value) is not None
    except (BadValue, ValueError, TypeError):
        return False
