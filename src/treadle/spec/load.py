"""treadle.yaml -> ``ProjectSpec``, or every problem of the file at once with line, column, value and cure. Imports no torch."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from treadle.spec.project import ProjectSpec

Location = tuple[str | int, ...]

# Keys that people reach for, and what says the same here.
_SYNONYMS: dict[tuple[str, ...], str] = {
    ("train", "steps"): "train.budget, as in 'budget: 500 steps'",
    ("train", "epochs"): "train.budget, as in 'budget: 3 epochs'",
    ("train", "lr"): "train.learning_rate",
    ("train", "batch_size"): "train.batch",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (``file:line:column``), which key, its value, and what would be right."""

    file: str
    line: int
    column: int
    key: str
    message: str
    value: str = ""
    cure: str = ""

    def __str__(self) -> str:
        shown = f" (is {self.value})" if self.value else ""
        cure = f"\n    cure: {self.cure}" if self.cure else ""
        return f"{self.file}:{self.line}:{self.column}: {self.key}: {self.message}{shown}{cure}"


def read(text: str, file: str, overrides: Sequence[str] = ()) -> ProjectSpec | list[Problem]:
    """Parse and validate ``text``; ``overrides`` are ``a.b=c`` and win over the file. Gives the spec, or all problems."""
    try:
        tree = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return [Problem(file, line, column, "YAML", str(error.problem or error.context), cure="mend the YAML at this place")]
    if not isinstance(tree, CommentedMap):
        return [Problem(file, 1, 1, "file", "holds no mapping", cure="start from 'treadle init'")]
    problems = [p for given in overrides if (p := _override(tree, given))]
    try:
        spec = ProjectSpec.model_validate(_plain(tree))
    except ValidationError as error:
        return problems + sorted((_problem(file, tree, e) for e in error.errors()), key=lambda p: (p.line, p.column))
    return problems or spec


def read_file(path: Path, overrides: Sequence[str] = ()) -> ProjectSpec | list[Problem]:
    """``read`` of a file; one that is missing, unreadable or not UTF-8 is a problem like any other."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        cure = "run 'treadle init' to make a project here, or go to the folder that holds it"
        return [Problem(str(path), 1, 1, "file", "there is no such file", cure=cure)]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(path), 1, 1, "file", f"cannot be read: {error}", cure="give a readable UTF-8 text file")]
    return read(text, str(path), overrides)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of treadle.yaml, for editors."""
    schema = ProjectSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "treadle.yaml"}


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = False
    return yaml


def _plain(node: Any) -> Any:
    """Ruamel's round-trip tree as plain Python, so that validation sees what any YAML reader would give."""
    if isinstance(node, CommentedMap):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _override(tree: CommentedMap, given: str) -> Problem | None:
    key, equals, value = given.partition("=")
    if not equals or not key.strip():
        return Problem("--set", 1, 1, given, "is not of the form key=value", cure="as in --set train.budget='500 steps'")
    try:
        parsed = _yaml().load(StringIO(value))
    except MarkedYAMLError as error:
        return Problem("--set", 1, 1, given, f"value is not YAML: {error.problem}", cure="quote it")
    node: Any = tree
    *path, last = key.strip().split(".")
    for step in path:
        if isinstance(node, CommentedSeq) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
            continue
        if not isinstance(node, CommentedMap):
            return Problem("--set", 1, 1, key, f"{step!r} stands under something that is not a mapping", cure="check the key")
        if not isinstance(node.get(step), (CommentedMap, CommentedSeq)):
            node[step] = CommentedMap()
        node = node[step]
    if isinstance(node, CommentedSeq) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, CommentedMap):
        node[last] = parsed
    else:
        return Problem("--set", 1, 1, key, "names no place in the file", cure="check the key")
    return None


def _position(tree: CommentedMap, location: Location, of_key: bool) -> tuple[int, int]:
    """1-based line and column of the value at ``location`` (of its key where ``of_key``), or of the nearest parent in the file."""
    node: Any = tree
    line, column = 1, 1
    for index, step in enumerate(location):
        last = index == len(location) - 1
        try:
            if isinstance(node, CommentedMap):
                found = node.lc.key(step) if (last and of_key) else node.lc.value(step)
            else:
                found = node.lc.item(step)
            line, column = found[0] + 1, found[1] + 1
            node = node[step]
        except (KeyError, TypeError, AttributeError, IndexError):
            break
    return line, column


def _problem(file: str, tree: CommentedMap, error: Any) -> Problem:
    kind = error["type"]
    location = tuple(step for step in error["loc"] if step != "[key]" and not _is_union_tag(tree, error["loc"], step))
    key = ".".join(str(step) for step in location) or "file"
    unknown = kind == "extra_forbidden"
    line, column = _position(tree, location, of_key=unknown or "[key]" in error["loc"])
    if unknown:
        names = _fields_at(location[:-1])
        return Problem(file, line, column, key, "is not a known key", cure=_nearest(location, names))
    if kind == "missing":
        return Problem(file, line, column, key, "is missing", cure=_missing_cure(location))
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["msg"].startswith("Input should be "):
        message = "must be " + message
    allowed = error.get("ctx", {}).get("expected", "")
    cure = ""
    if isinstance(error["input"], str) and allowed:
        names = [name.strip(" '") for name in allowed.replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(error["input"], names, n=1, cutoff=0.5)
        cure = f"did you mean {near[0]!r}?" if near else f"write one of: {', '.join(names)}"
    return Problem(file, line, column, key, message, value=_short(error["input"]), cure=cure)


def _is_union_tag(tree: CommentedMap, location: Location, step: str | int) -> bool:
    """Pydantic puts the name of the tried union member into the location; such a step names nothing in the file."""
    return isinstance(step, str) and (step.startswith(("function-", "literal[", "constrained-")) or step in ("str", "int"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _missing_cure(location: Location) -> str:
    model = _model_at(location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    hint = f": {field.description.splitlines()[0]}" if field and field.description else ""
    return f"add '{location[-1]}:'{hint}"


def _nearest(location: Location, names: Iterable[str]) -> str:
    names = list(names)
    synonym = _SYNONYMS.get(tuple(str(step) for step in location))
    if synonym:
        return f"say {synonym}"
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(names)}"


def _fields_at(location: Location) -> list[str]:
    model = _model_at(location)
    return list(model.model_fields) if model else []


def _model_at(location: Location) -> type[BaseModel] | None:
    """The section class that describes the mapping at ``location``."""
    kind: Any = ProjectSpec
    for step in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(step))
            kind = field.annotation if field else None
        else:
            kind = (typing.get_args(kind) or (None,))[-1]  # the value of a dict, the item of a list
        kind = _strip(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _strip(kind: Any) -> Any:
    """``X | None`` and ``Annotated[X, ...]`` -> X."""
    if typing.get_origin(kind) is typing.Annotated:
        return _strip(typing.get_args(kind)[0])
    members = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    if typing.get_origin(kind) not in (dict, list, tuple) and len(members) == 1 and type(None) in typing.get_args(kind):
        return _strip(members[0])
    return kind
