"""``treadle predict``: the live version's answers to every row of a table, or every file of a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.errors import UserError
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.fields.base import BadValue
from treadle.data.record import SetAside
from treadle.data.schema import Schema
from treadle.data.sources.base import Place
from treadle.data.sources.rows import cells
from treadle.data.sources.table import table_rows
from treadle.model.network import FILE, load_network
from treadle.serve.predictor import ROWS, Prediction, predict
from treadle.spec.data import TableSource
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger


@dataclass
class Predicted:
    """Where the answers are, how many there are, and why some rows have none."""

    path: Path
    version: int
    answered: int = 0
    set_aside: list[SetAside] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        aside = [{"source": item.source, "reason": item.reason, "detail": item.detail} for item in self.set_aside]
        return {"path": str(self.path), "version": self.version, "answered": self.answered, "set_aside": aside}


def predict_file(project: Project, store: Store, ledger: Ledger, source: Path, out: Path | None) -> Predicted:
    """Write each row of ``source`` with the live version's answers beside it, as CSV or, by the ending of ``out``, JSON Lines.

    A row that cannot be read keeps its place in the output, with the reason in the column ``problem``. Raises ``UserError`` where
    nothing is live, the model writes text, or the file lacks a column.
    """
    live = ledger.must_be_live()
    package = store.open(live["package"])
    if not (package.path / FILE).exists():
        raise UserError("the live model writes text, it does not answer about records", cure="ask it with 'treadle serve'")
    network, schema = load_network(package.path), Schema.load(package.path)
    target = out or source.with_name(source.name.split(".")[0] + ".predictions.csv")
    found = Predicted(target, int(live["version"]))
    raw = list(_rows(project, source, schema))
    with task("predicting", total=len(raw), unit="rows") as work:
        lines: list[dict[str, Any]] = []
        for first in range(0, len(raw), ROWS):
            part = raw[first : first + ROWS]
            plain = [_plain(schema, where, row) for where, row in part]
            answers = iter(predict(network, schema, [row for row in plain if not isinstance(row, SetAside)]))
            for (_, row), read in zip(part, plain, strict=True):
                if isinstance(read, SetAside):
                    found.set_aside.append(read)
                    lines.append(_columns(row) | {"problem": f"{read.reason}: {read.detail}" if read.detail else read.reason})
                else:
                    found.answered += 1
                    lines.append(_columns(row) | _answer(next(answers)))
            work.advance(len(part))
    _write(target, lines)
    return found


def _rows(project: Project, source: Path, schema: Schema) -> Iterator[tuple[str, Any]]:
    """(where, row as it comes) of a table, read as the project's own tables are; or (name, file) of a folder's files."""
    if source.is_dir():
        wanted = [column for column in schema.by_column if column not in schema.answers]
        if len(wanted) != 1:
            cure = "give a table with those columns"
            raise UserError(f"{source} is a folder, and the model reads {len(wanted)} columns", cure=cure)
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            yield str(file.relative_to(source)), {"file": str(file), wanted[0]: {"bytes": file.read_bytes(), "path": file.name}}
        return
    if not source.is_file():
        raise UserError(f"there is no file {source}", cure="give a table, or a folder of files")
    own = next((s for s in project.spec.data.sources if isinstance(s, TableSource)), None)
    settings: dict[str, Any] = own.model_dump(exclude={"table", "part", "limit", "history"}) if own else {"licence": "unknown"}
    spec = TableSource(**settings | {"table": str(source.absolute())})
    place = Place(project.folder, "predict", "", project.spec.data.clean.max_size, "file", schema)
    yield from cells(table_rows(spec, place), spec, schema.whole)


def _plain(schema: Schema, where: str, row: Any) -> Mapping[str, Any] | SetAside:
    if isinstance(row, SetAside):
        return row
    absent = [column for column in schema.by_column if column not in schema.answers and column not in row]
    if absent:
        have = ", ".join(map(str, list(row)[:40]))
        raise UserError(f"{where} has no column {', '.join(map(repr, absent))}", cure=f"its columns are: {have}")
    try:
        return schema.parse(row, answers=False)
    except BadValue as error:
        return SetAside(where, error.reason, error.detail)


def _columns(row: Any) -> dict[str, Any]:
    """The row as it came, without the content of files."""
    return {} if isinstance(row, SetAside) else {key: value for key, value in row.items() if not isinstance(value, dict)}


def _answer(answer: Prediction) -> dict[str, Any]:
    """``HEAD.answer``, and of each head what it has: ``HEAD.probability`` of the answer, ``HEAD.SHARE`` of each quantile."""
    line: dict[str, Any] = {}
    for name, head in answer.items():
        line[f"{name}.answer"] = head["answer"]
        if "probabilities" in head and not isinstance(head["answer"], list):
            line[f"{name}.probability"] = head["probabilities"][head["answer"]]
        line |= {f"{name}.{share}": value for share, value in head.get("quantiles", {}).items()}
    return line


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            if path.suffix in (".jsonl", ".ndjson"):
                stream.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
                return
            names = list(dict.fromkeys(name for line in lines for name in line))
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", cure="choose another place with --out") from None


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
