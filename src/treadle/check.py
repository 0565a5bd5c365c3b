"""The data that a project names, looked at: what is there, and whether the model can read its first rows. Imports no torch."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from treadle.core.errors import UserError
from treadle.core.project import Project, SpecError
from treadle.data.fields.base import BadValue
from treadle.data.given import missing_files
from treadle.data.record import SetAside
from treadle.data.schema import Schema
from treadle.data.sources.base import Place, Row
from treadle.data.sources.collect import ROWS, collect, place_of
from treadle.data.sources.files import count_files
from treadle.data.sources.rows import prepared_rows
from treadle.data.sources.table import table_files
from treadle.data.sources.url import local_file, reading
from treadle.spec.data import AnySource, FilesSource, HubSource, MediaSource, TableSource, UrlSource, source_name
from treadle.spec.problem import Location, Problem
from treadle.store.start import open_start

ROWS_READ = 500
"""Of each source of rows."""
_HISTORY_ROWS = 20_000
_ITEMS_READ = 20
_SHOWN = 40  # characters of an example

Finding = tuple[Location, str, str]
"""The key, what is wrong, the cure."""


@dataclass
class Look:
    """What was seen of one column in the first rows of all sources."""

    read_as: str
    seen: int = 0
    missing: int = 0
    unreadable: int = 0
    wrong: str = ""
    """The first value that could not be read."""
    example: str = ""
    kinds: set[str] = field(default_factory=set)


def check_data(project: Project) -> dict[str, Any]:
    """Each source with its size, and each column with what the model makes of its first values. Raises ``SpecError`` with all
    that is wrong at once."""
    model = project.spec.model
    schema = None if model.predicts_text else Schema(model)
    looks: dict[str, Look] = {}
    sources: list[dict[str, Any]] = []
    found: list[Finding] = []
    for number, source in enumerate(project.spec.data.sources):
        place = place_of(project, number, schema)
        try:
            seen, wrong = _look(source, place, looks)
        except UserError as error:
            key, _, message = error.message.partition(": ")
            at = tuple(int(step) if step.isdigit() else step for step in key.split(".")) if key.startswith(place.key) else ()
            found.append((at or ("data", "sources", number), message if at else error.message, error.cure))
        else:
            sources.append({"files": source_name(source)} | seen)
            found += [finding for finding in wrong if finding not in found]
    found += _unreadable(looks, schema)
    found += [(key, error.message, error.cure) for key, error in missing_files(project)] + _neighbours(project)
    try:
        open_start(project)
    except UserError as error:
        found.append((("model", "start_from"), error.message.removeprefix("model.start_from: "), error.cure))
    if found:
        raise SpecError(_problems(project, found))
    derived = [d.as_dict() for d in project.resolved.reasons]
    shape = project.resolved.shape
    return {
        "name": project.spec.name, "sources": sources, "derived": derived, "parameters": shape.parameters if shape else None,
        "columns": [
            {"column": name, "read_as": look.read_as, "rows": look.seen, "missing": look.missing, "unreadable": look.unreadable,
             "example": look.example}
            for name, look in looks.items()
        ],
    }


def _neighbours(project: Project) -> list[Finding]:
    """Of the projects that are served beside it, those that are not there. Training does without them."""
    found: list[Finding] = []
    for place, other in enumerate(project.beside):
        key = ("serve", "beside", place)
        if not other.exists():
            found.append((key, f"there is no {other}", "name the folder of a project, or its treadle.yaml"))
        elif other in (project.folder, project.file):
            found.append((key, "it is this project itself", "leave it out: it is served anyway"))
    return found


def _look(source: AnySource, place: Place, looks: dict[str, Look]) -> tuple[dict[str, Any], list[Finding]]:
    """What the source holds, and what is wrong with its columns. Raises ``UserError`` where it is not there."""
    if isinstance(source, UrlSource):
        if not local_file(source, place).exists():
            return {"count": 0, "bytes": 0, "note": "not downloaded yet"}, []
        return _look(reading(source, place), place, looks)
    if isinstance(source, HubSource) and not (place.folder / source.dataset).is_dir():
        return {"count": 0, "bytes": 0, "note": "opened by 'treadle run'"}, []
    if isinstance(source, FilesSource):
        count, length = count_files(source, place)
        return {"count": count, "bytes": length}, []
    if isinstance(source, MediaSource):
        items = list(itertools.islice(collect(source, place), _ITEMS_READ))
        good = [item for item in items if not isinstance(item, SetAside)]
        if not good:
            why = next((item for item in items if isinstance(item, SetAside)), SetAside("", "nothing there"))
            message = f"none of the first {len(items)} items can be read: {why.source}: {why.reason} {why.detail}".rstrip()
            return {"count": 0, "bytes": 0}, [(_at(place), message, "mend 'match', or the files")]
        return {"count": len(items), "bytes": 0, "note": f"the first {len(items)} items looked at"}, []
    size = {"count": 1, "bytes": 0}
    if isinstance(source, TableSource):
        files = [path for path, _ in table_files(source, place)]
        size = {"count": len(files), "bytes": sum(path.stat().st_size for path in files)}
    rows, wrong = _first_rows(source, place)
    return size | {"rows": len(rows)}, wrong or _columns(rows, place, looks)


def _first_rows(source: Any, place: Place) -> tuple[list[tuple[str, Row]], list[Finding]]:
    raw = ROWS[type(source)](source, place)
    if not source.history:
        return list(itertools.islice(prepared_rows(raw, source, place.schema), ROWS_READ)), []
    first = list(itertools.islice(raw, _HISTORY_ROWS))
    have = next((row for _, row in first if not isinstance(row, SetAside)), {})
    needed = [name for name in (source.history.user, source.history.item, source.history.time) if name and name not in have]
    wrong = [(_at(place), f"history: there is no column {name!r}", _nearest(name, have)) for name in needed if have]
    return list(itertools.islice(prepared_rows(iter(first), source, place.schema), ROWS_READ)), wrong


def _columns(rows: list[tuple[str, Row]], place: Place, looks: dict[str, Look]) -> list[Finding]:
    """Columns that are not there; the others are added to ``looks``."""
    plain = [row for _, row in rows if not isinstance(row, SetAside)]
    have = {name: None for row in plain for name in row}
    if not plain:
        aside = next((item for _, item in rows if isinstance(item, SetAside)), None)
        why = f": {aside.source}: {aside.reason} {aside.detail}".rstrip() if aside else ""
        return [(_at(place), f"there is no row to read{why}", "put rows there, or mend 'columns' and 'delimiter'")]
    names = place.wanted
    wrong: list[Finding] = [
        (_key(name, place), f"{rows[0][0]} has no column {name!r}", _nearest(name, have)) for name in names if name not in have
    ]
    for name in have:
        reads = _reader(name, place)
        look = looks.setdefault(name, Look(reads[0]))
        for row in plain:
            _see(look, row.get(name), reads[1])
    return wrong


def _see(look: Look, raw: Any, parse: Callable[[Any], Any]) -> None:
    look.seen += 1
    try:
        value = parse(raw)
    except BadValue as error:
        look.unreadable += 1
        look.wrong = look.wrong or f"{error.reason}: {error.detail}".rstrip(": ")
        return
    if value is None or value == "" or (value == [] and look.read_as != "answer: tags"):  # no spans is an answer
        look.missing += 1
        return
    look.example = look.example or str(raw)[:_SHOWN]
    if len(look.kinds) < 10:
        look.kinds.add(str(value))


def _reader(name: str, place: Place) -> tuple[str, Callable[[Any], Any]]:
    """What the model reads the column as, for people, and the function that does."""
    if place.schema is None:
        return ("text" if name in place.wanted else "not read"), lambda raw: raw
    for inputs, fields in ((True, place.schema.inputs), (False, place.schema.targets)):
        for key, found in fields.items():
            if name in found.columns:
                kind = (place.schema.model.inputs if inputs else place.schema.model.heads)[key].kind
                return (kind if inputs else f"answer: {kind}"), found.parse
    return ("group" if name == place.by else "not read"), lambda raw: raw


def _unreadable(looks: Mapping[str, Look], schema: Schema | None) -> list[Finding]:
    """Columns whose values are mostly not what the model reads them as."""
    found: list[Finding] = []
    for name, look in looks.items():
        given = look.seen - look.missing
        if look.unreadable > given / 2:
            message = f"the column is read as {look.read_as}, and of {given} first values {look.unreadable} are not ({look.wrong})"
            found.append((_model_key(name, schema), message, "name another kind, or another column"))
        elif look.read_as == "answer: binary" and len(look.kinds) > 2:
            shown = ", ".join(sorted(look.kinds)[:5])
            message = f"a yes/no head needs two values, the first rows hold {len(look.kinds)} ({shown})"
            found.append((_model_key(name, schema), message, f"say '{name}: category'"))
        elif look.seen == look.missing and look.read_as.startswith("answer"):
            message = f"none of the first {look.seen} rows has an answer in the column {name!r}"
            found.append((_model_key(name, schema), message, "name the column with the answers"))
    return found


def _at(place: Place) -> Location:
    return ("data", "sources", int(place.key.rpartition(".")[2]))


def _key(name: str, place: Place) -> Location:
    if place.schema is None and name in place.wanted and name != place.by:
        return ("model", "inputs", place.field)
    return ("data", "split", "by") if name == place.by else _model_key(name, place.schema)


def _model_key(name: str, schema: Schema | None) -> Location:
    for part, fields in (("inputs", schema.inputs), ("heads", schema.targets)) if schema else ():
        for key, found in fields.items():
            if name in found.columns:
                return ("model", part, key)
    return ("model",)


def _nearest(name: str, have: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(have), n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}its columns are: {', '.join(list(map(str, have))[:40])}"


def _problems(project: Project, found: list[Finding]) -> list[Problem]:
    document = project.document()
    made = []
    for location, message, cure in found:
        written = document.written(location)
        made.append(Problem.at(document.mark(written), ".".join(map(str, location)), message, cure=cure))
    return sorted(made, key=lambda problem: (problem.line, problem.column))
