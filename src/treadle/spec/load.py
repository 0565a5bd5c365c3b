"""treadle.yaml -> ``ProjectSpec``, or every problem of the file at once with line, column, value and cure. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from treadle.spec.derive import Contradiction, derive
from treadle.spec.document import Document, override, parse
from treadle.spec.explain import explain
from treadle.spec.problem import Mark, Problem, dotted
from treadle.spec.project import ProjectSpec


def read(text: str, file: str, overrides: Sequence[str] = ()) -> ProjectSpec | list[Problem]:
    """Parse and validate ``text``; ``overrides`` are ``a.b=c`` and win over the file. Gives the spec, or all problems."""
    document = parse(text, file)
    if not isinstance(document.value, dict):
        if document.problems:
            return document.problems
        what = "is empty" if document.value is None else "is not a mapping of sections such as 'data:' and 'model:'"
        return [Problem(file, 1, 1, "file", what, cure="start from one that 'treadle init' makes")]
    for given in overrides:
        override(document, given)
    found = list(document.problems)
    try:
        spec = ProjectSpec.model_validate(document.value)
        derive(spec)
    except ValidationError as error:
        # A place that is wrong as YAML is empty to validation: the first complaint says it all.
        places = {problem.place for problem in found if problem.line}
        explained = (explain(ProjectSpec, document, e) for e in error.errors())
        found += [problem for problem in explained if problem.place not in places]
    except Contradiction as error:
        found += [_contradiction(document, location, message) for location, message in error.findings]
    return sorted(found, key=lambda problem: (problem.line, problem.column)) or spec


def read_file(path: Path, overrides: Sequence[str] = ()) -> ProjectSpec | list[Problem]:
    """``read`` of a file; one that is missing, unreadable or not UTF-8 is a problem like any other."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        cure = "run 'treadle init' to make a project here, or go to the folder that holds it"
        return [Problem(str(path), 1, 1, "file", "there is no such file", cure=cure)]
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(str(path), before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        message = f"is not UTF-8 text: byte 0x{content[error.start]:02x}"
        return [Problem.at(mark, "file", message, cure="save it as UTF-8")]
    except OSError as error:
        return [Problem(str(path), 1, 1, "file", f"cannot be read: {error.strerror}", cure="give a readable text file")]
    return read(text, str(path), overrides)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of treadle.yaml, for editors."""
    schema = ProjectSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "treadle.yaml"}


def _contradiction(document: Document, location: tuple[str, ...], message: str) -> Problem:
    return Problem.at(document.mark(location), dotted(location), message, cure="give values that agree, or leave one out")
