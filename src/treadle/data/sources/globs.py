"""Glob patterns as regular expressions, and a walk that follows no linked folder and loses nothing without a word."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from treadle.core.errors import SourceError

_MAGIC = re.compile(r"[*?\[]")


def data_folder() -> Path:
    """Where public data sets lie on this machine: what the environment variable TREADLE_DATA says, else ../shared/data."""
    return Path(os.environ.get("TREADLE_DATA", "../shared/data")).absolute()


_PLACES = {"stdlib": lambda: Path(sysconfig.get_path("stdlib")), "data": data_folder}


@dataclass(frozen=True)
class Pattern:
    """A glob: its fixed folder, what people call that folder, and the part that varies."""

    root: Path
    label: str
    """Path of the fixed folder as it stands in records: never more of an absolute path than its last name."""
    glob: str


def parse_pattern(text: str, folder: Path, key: str, field: str = "files") -> Pattern:
    """Split ``text`` at its first wildcard. Raises ``SourceError`` for an unknown ``{name}`` or a missing fixed folder."""
    names = re.findall(r"\{[^}]*\}", text)
    start = re.match(r"\{(\w+)\}(?:/|$)", text)
    if names and not (start and start.group(1) in _PLACES and len(names) == 1):
        cure = "'{stdlib}' and '{data}' are known, at the start of the pattern; write two sources for two endings"
        raise SourceError(f"{key}.{field}: {names[0]} in {text!r} is not understood", cure=cure)
    base, rest = (_PLACES[start.group(1)](), text[start.end() :]) if start else (folder, text)
    parts = rest.split("/")
    fixed = 0
    while fixed < len(parts) - 1 and not _MAGIC.search(parts[fixed]):
        fixed += 1
    head = "/".join(parts[:fixed])
    root = base / (head + "/" if text.startswith("/") else head) if fixed else base
    if not root.is_dir():
        message = f"{key}.{field}: {text!r} names the folder {root}, which is not there"
        raise SourceError(message, cure="mend the path, or make the folder")
    steps = [part for part in parts[:fixed] if part not in ("", ".")]
    if start:
        label = "/".join([start.group(1), *steps])
    else:
        label = root.resolve().name if text.startswith("/") or ".." in steps else "/".join(steps)
    return Pattern(root, label, "/".join(parts[fixed:]))


def glob_regex(glob: str) -> re.Pattern[str]:
    """``glob`` over relative paths with ``/``: ``**`` crosses folders, ``*``, ``?`` and ``[...]`` do not; a wildcard at the start
    of a name does not match a dot."""
    out, parts = "", glob.split("/")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            out += r"(?:[^/.][^/]*/)*" + (r"[^/.][^/]*" if last else "")
            continue
        if part[:1] in ("*", "?", "["):
            out += r"(?!\.)"
        out += _name_regex(part) + ("" if last else "/")
    return re.compile(out + r"\Z", re.DOTALL)


def _name_regex(part: str) -> str:
    out, at = "", 0
    while at < len(part):
        sign = part[at]
        close = part.find("]", at + 2) if sign == "[" else -1
        if close > 0:
            out += _class_regex(part[at + 1 : close])
            at = close
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign))
        at += 1
    return out


def _class_regex(inside: str) -> str:
    """``[...]``; one that makes no sense, such as ``[z-a]``, stands for itself."""
    escaped = inside.replace("\\", r"\\").replace("[", r"\[")
    regex = "[" + ("^/" + escaped[1:] if inside.startswith("!") else escaped) + "]"
    try:
        re.compile(regex)
    except re.error:
        return re.escape(f"[{inside}]")
    return regex


@dataclass(frozen=True)
class Found:
    """A path below the fixed folder that matches; ``problem`` says why a folder could not be entered, else ""."""

    path: Path
    relative: str
    problem: str = ""


def walk(pattern: Pattern, prune: Sequence[re.Pattern[str]] = ()) -> Iterator[Found]:
    """Matching files, sorted by path within each folder, and the folders on the way that are links or cannot be read. Folders whose
    every file matches one of ``prune`` are not entered."""
    matches = glob_regex(pattern.glob)
    parts = pattern.glob.split("/")
    depth = None if "**" in parts else len(parts)
    dots = any(part.startswith(".") for part in parts)
    left_out = [] if dots else prune  # where dots count, a hidden file may not be excluded with its folder
    yield from _walk(str(pattern.root), "", 1, depth, dots, matches, left_out)


def pruning(globs: Iterable[str]) -> list[re.Pattern[str]]:
    """Of those globs that take whole folders, what the folders match."""
    return [glob_regex(glob.removesuffix("/**")) for glob in globs if glob.endswith("/**") and glob != "**/**"]


def _walk(
    folder: str, prefix: str, level: int, depth: int | None, dots: bool, matches: re.Pattern[str],
    prune: Sequence[re.Pattern[str]],
) -> Iterator[Found]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(Path(folder), prefix.rstrip("/"), f"folder: {error.strerror}")
        return
    for entry in entries:
        relative = prefix + entry.name
        if entry.name.startswith(".") and not dots:
            continue
        if not entry.is_dir():
            if matches.match(relative):
                yield Found(Path(entry.path), relative)
        elif depth is None or level < depth:
            if entry.is_symlink():
                yield Found(Path(entry.path), relative, "link")
            elif not any(glob.match(relative) for glob in prune):
                yield from _walk(entry.path, relative + "/", level + 1, depth, dots, matches, prune)
