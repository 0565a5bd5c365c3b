"""A project from data that was never seen: what the columns and the answer are likely to be, and why. Imports no torch."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.core.errors import UserError
from treadle.data.guess import Guess, guess_encoding, guess_header, guess_quoted, guess_table
from treadle.data.record import SetAside
from treadle.data.sources.base import Place
from treadle.data.sources.table import find_delimiter, table_rows
from treadle.spec.data import TableSource

_ROWS = 5000  # looked at
_SNIFFED = 4_000_000  # bytes that encoding and delimiter are found from
_TEXT = (".csv", ".tsv", ".txt", ".data", ".test")
_TABLES = (*_TEXT, ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xlsm")
_FOLDERS = {
    "image": (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"), "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "text": (".txt", ".md", ".py", ".html", ".rst"),
}
_SMALL = 2000  # records from which a tenth is enough to test on
_NOTE = "# licence: what the data may be used under: write its SPDX identifier."
_WORDS = ("true", "false", "yes", "no", "null", "on", "off", "y", "n")  # that YAML does not take for texts


@dataclass(frozen=True)
class Starter:
    """A project as it was guessed: the file's text, and (what, guess, reason) rows."""

    name: str
    text: str
    guesses: tuple[tuple[str, str, str], ...]


def start(path: Path, folder: Path | None, target: str | None = None) -> tuple[Path, Starter]:
    """Write a project on the table or the folder at ``path`` into ``folder`` (default: one of its name). Raises ``UserError`` where
    there is nothing to learn from, or a project is already."""
    if not path.exists():
        raise UserError(f"there is no {path}", cure="give a table or a folder that is there")
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.removesuffix(".gz").rsplit(".", 1)[0].lower()).strip("-._") or "project"
    made = folder or Path(name)
    if (made / "treadle.yaml").exists():
        raise UserError(f"{made} holds a project already", cure="choose another folder, or remove that treadle.yaml")
    if made.resolve() == path.resolve():
        raise UserError(f"{made} is the data itself", cure="name another folder for the project: treadle init --from DATA PROJECT")
    where = os.path.relpath(path.resolve(), made.resolve())
    starter = _folder(path, where, name) if path.is_dir() else _table(path, where, name, target)
    try:
        made.mkdir(parents=True, exist_ok=True)
        (made / "treadle.yaml").write_text(starter.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot make {made}: {error.strerror}", cure="choose a folder that you may write to") from None
    return made, starter


# -- tables ---------------------------------------------------------------------------------------------------------------


def _table(path: Path, where: str, name: str, target: str | None) -> Starter:
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending not in _TABLES:
        raise UserError(f"{path} is no table that can be read", cure=f"give one that ends in {', '.join(_TABLES)}, or a folder")
    settings, guesses = _form(path) if ending in _TEXT else ({}, [])
    spec = TableSource(table=str(path.resolve()), licence="unknown", **settings)
    place = Place(path.parent.resolve(), "data", "text", 1 << 30, "file")
    read = list(itertools.islice(table_rows(spec, place), _ROWS))
    rows = [row for _, row in read if not isinstance(row, SetAside)]
    if not rows:
        raise UserError(f"{path} holds no row that can be read", cure="look at the file, or write treadle.yaml by hand")
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    if target is not None and target not in names:
        raise UserError(f"{path} has no column {target!r}", cure=f"its columns are: {', '.join(names)}")
    if len(names) < 2:
        raise UserError(f"{path} has one column only, {names[0]!r}", cure="an answer and something to tell it from are needed")
    found = guess_table(names, rows, target)
    inputs = [guess for guess in found.columns if guess.kind and not guess.target]
    if not inputs:
        raise UserError(f"{path} has no column to tell {found.target.column!r} from", cure="write treadle.yaml by hand")
    if found.missing:
        guesses.append(("missing", " ".join(found.missing), "stand in columns that are numbers but for them"))
    guesses += [(guess.column, guess.kind or "-", guess.reason) for guess in found.columns]
    if read_aside := len(read) - len(rows):
        guesses.append(("rows", f"{read_aside} of {len(read)}", "cannot be read: they will be set aside, with their reasons"))
    return Starter(name, _table_yaml(name, where, settings, found.missing, found.columns, len(rows)), tuple(guesses))


def _form(path: Path) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Settings of a text file: encoding, delimiter, quotes, and names for its columns where it has no header."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        data = stream.read(_SNIFFED)
    encoding, why = guess_encoding(data)
    guesses = [("encoding", encoding, why)]
    settings: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    lines = data.decode(encoding, "replace").removeprefix("\ufeff").splitlines(keepends=True)[:200]
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty", cure="give a table with rows")
    mark = find_delimiter(lines)
    guesses.append(("delimiter", {"\t": "tab"}.get(mark, mark), "cuts the lines into equally many cells"))
    settings |= {} if mark == "," else {"delimiter": mark}
    if not guess_quoted(lines, mark):
        settings["quoted"] = False
        guesses.append(("quoted", "false", "read as quotes, some signs would swallow lines"))
    quoting: Any = csv.QUOTE_MINIMAL if settings.get("quoted", True) else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=mark, skipinitialspace=True, quoting=quoting)
    rows = [[cell.strip() for cell in row] for row in reader if row]
    header, why = guess_header(rows[0], rows[1:])
    guesses.append(("header", "yes" if header else "no", why))
    if not header:
        settings["columns"] = _documented(path, len(rows[0])) or [f"c{n}" for n in range(1, len(rows[0]) + 1)]
    return settings, guesses


def _documented(path: Path, wide: int) -> list[str] | None:
    """Names from a description beside the file, ``NAME.names``, that says ``name: values`` for each column, as UCI's do."""
    for file in sorted(path.parent.glob("*.names")):
        text = file.read_text(encoding="latin-1")
        found = re.findall(r"^([A-Za-z][\w-]*):[ \t]*(?:continuous|[^\n]+,[^\n]*)\.?[ \t]*$", text, re.MULTILINE)
        if len(found) in (wide, wide - 1) and len(set(found)) == len(found):
            return found + ["target"] * (wide - len(found))
    return None


def _table_yaml(
    name: str, where: str, settings: Mapping[str, Any], marks: Sequence[str], columns: Sequence[Guess], rows: int
) -> str:
    source: dict[str, Any] = {"table": where, "licence": "unknown", **settings}
    if marks:
        source["missing"] = ["", "?", "NA", "N/A", "#N/A", "nan", "NaN", "null", "None", *marks]
    target = next(guess for guess in columns if guess.target)
    lines = [f"    {'- ' if n == 0 else '  '}{key}: {_flow(value)}" for n, (key, value) in enumerate(source.items())]
    inputs = [f"    {_input(guess)}" for guess in columns if guess.kind and not guess.target]
    left = [f"    # {guess.column}: {guess.reason}" for guess in columns if not guess.kind]
    return "\n".join([
        *_top(name), *lines, *_split(rows), "", "model:", "  inputs:", *inputs, *left,
        "  trunk: {mlp: {width: 128, depth: 2, dropout: 10%}}", "  heads:",
        f"    {_flow(target.column)}: {target.kind}   # {target.reason}", "", "train: {budget: 20 epochs, patience: 5}", "",
    ])


def _input(guess: Guess) -> str:
    kind = _flow({guess.kind: dict(guess.settings)}) if guess.settings else guess.kind
    return f"{_flow(guess.column)}: {kind}   # {guess.reason}"


# -- folders --------------------------------------------------------------------------------------------------------------


def _folder(path: Path, where: str, name: str) -> Starter:
    """Images, recordings or texts in folders named by their classes; texts in none are learned from as they are."""
    files = sorted(p for p in itertools.islice(path.rglob("*"), 100_000) if p.is_file() and not p.name.startswith("."))
    endings = Counter(file.suffix.lower() for file in files)
    counts = {kind: sum(endings[ending] for ending in known) for kind, known in _FOLDERS.items()}
    kind = max(counts, key=lambda key: counts[key])
    if not counts[kind]:
        tables = [file.name for file in files if file.suffix.lower() in _TABLES]
        cure = f"name the table itself, such as {path / tables[0]}" if tables else "give images, recordings or texts"
        raise UserError(f"{path} holds no images, recordings or texts", cure=cure)
    own = [file for file in files if file.suffix.lower() in _FOLDERS[kind]]
    classes = Counter(file.parent.name for file in own if file.parent != path)
    commonest = [ending for ending, _ in endings.most_common() if ending in _FOLDERS[kind]]
    guesses = [("files", kind, f"{len(own)} of {len(files)} files end in {', '.join(commonest)}")]
    if len(classes) < 2:
        if kind != "text":
            cure = "put each class into a folder of its own, or name a table with the labels: see MediaSource in docs/config.md"
            raise UserError(f"{path} does not say what its {len(own)} files show", cure=cure)
        guesses.append(("model", "next_token", "texts without classes: a language model"))
        return Starter(name, _language_yaml(name, where, commonest), tuple(guesses))
    head = "binary" if len(classes) == 2 else "category"
    guesses.append(("class", head, f"{len(classes)} folders: {', '.join(sorted(classes)[:6])}{' ...' * (len(classes) > 6)}"))
    trunk = "recurrent" if kind == "text" else "conv"
    match = _flow([f"**/*{ending}" for ending in sorted({file.suffix for file in own})])
    text = "\n".join([
        *_top(name), f"    - media: {_flow(where)}",
        "      licence: unknown", f"      into: {kind}   # the field that takes each file", "      folder_is: class",
        f"      match: {match}", *_split(len(own)), "", "model:", f"  inputs: {{{kind}: {kind}}}   # settings: docs/config.md",
        f"  trunk: {trunk}", f"  heads: {{class: {head}}}   # {guesses[-1][2]}", "", "train: {budget: 20 epochs, patience: 5}", "",
    ])
    return Starter(name, text, tuple(guesses))


def _language_yaml(name: str, where: str, endings: Sequence[str]) -> str:
    sources = [f"    - {{files: {_flow(f'{where}/**/*{ending}')}, licence: unknown}}" for ending in endings]
    return "\n".join([
        *_top(name), *sources, "  split: {test: 10%, validation: 5%}", "", "model:",
        "  inputs: {text: {tokenizer: {bpe: 2048}}}", "  trunk: {transformer: {depth: 2}}",
        "  heads: {next: next_token}", "", "train: {budget: 3 min}", "",
    ])


# -- the file -------------------------------------------------------------------------------------------------------------


def _top(name: str) -> list[str]:
    return [
        "# Guessed from the data by 'treadle init --from'. Each guess has its reason: change what is wrong, then 'treadle check'.",
        "# Every key, with its default and meaning: docs/config.md.", _NOTE, f"name: {name}", "", "data:", "  sources:",
    ]


def _split(rows: int) -> list[str]:
    """Small data needs larger shares for its figures to say something."""
    share = "{test: 20%, validation: 15%}" if rows < _SMALL else "{test: 10%, validation: 10%}"
    return [f"  split: {share}"]


def _flow(value: Any) -> str:
    """As YAML writes it in one line; JSON is YAML."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
