"""What validation says, in the words of the person who wrote the file: what is allowed, and the nearest right spelling."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from treadle.spec.document import Document
from treadle.spec.problem import Location, Problem, dotted

# Keys that people reach for, and what says the same here.
_SYNONYMS: dict[Location, str] = {
    ("train", "steps"): "train.budget, as in 'budget: 500 steps'",
    ("train", "epochs"): "train.budget, as in 'budget: 3 epochs'",
    ("train", "lr"): "train.learning_rate",
    ("train", "batch_size"): "train.batch",
}
# Kind of error -> what is wrong, what to write. Kinds that are not here keep pydantic's words.
_WORDS: dict[str, tuple[str, str]] = {
    "int_type": ("must be a whole number", "write it without quotes, like 4"),
    "int_from_float": ("must be a whole number", "write it without a fraction, like 4"),
    "float_type": ("must be a number", "write it without quotes, like 0.5"),
    "finite_number": ("must be a finite number", "write a number, like 0.5"),
    "bool_type": ("must be true or false", "write true or false, without quotes"),
    "string_type": ("must be text", "write it in quotes"),
    "list_type": ("must be a list", "write it as [...] or as lines that begin with '- '"),
    "tuple_type": ("must be a list", "write it as [...]"),
    "dict_type": ("must be a mapping", "write it as {key: value} or as indented lines 'key: value'"),
    "model_type": ("must be a mapping", "write it as {key: value} or as indented lines 'key: value'"),
    "string_too_short": ("must not be empty", "write something"),
    "string_pattern_mismatch": ("must match {pattern}", ""),
    "greater_than": ("must be more than {gt}", "give a larger one"),
    "greater_than_equal": ("must be at least {ge}", "give a larger one"),
    "less_than": ("must be less than {lt}", "give a smaller one"),
    "less_than_equal": ("must be at most {le}", "give a smaller one"),
    "too_short": ("needs at least {min_length}, has {actual_length}", "add one"),
    "too_long": ("takes at most {max_length}", "leave the others out"),
}


def explain(root: type[BaseModel], document: Document, error: Mapping[str, Any]) -> Problem:
    """One error of ``root``'s validation of ``document.value`` as a problem of the file."""
    kind, context = str(error["type"]), dict(error.get("ctx", {}))
    location = document.written(file_location(root, error["loc"]))
    key = dotted(location)
    if kind == "extra_forbidden":
        model = model_at(root, error["loc"][:-1])
        cure = _nearest(location, model.model_fields if model else ())
        return Problem.at(document.mark(location, of_key=True), key, "is not a known key", cure=cure)
    if kind == "missing":
        named = isinstance(location[-1], str)
        message, cure = ("is missing", _add(root, error["loc"])) if named else ("is missing from the list", "add it")
        return Problem.at(document.mark(location[:-1], of_key=True), key, message, cure=cure)
    if error["loc"][-1:] == ("[key]",):
        names = [name.strip(" '") for name in str(context.get("expected", "")).replace(" or ", ", ").split(",")]
        return Problem.at(document.mark(location, of_key=True), key, "is not a known key", cure=_nearest(location, names))
    message, cure = _words(kind, error, context)
    if kind == "string_pattern_mismatch":
        field = _field(root, error["loc"])
        cure = f"give a {_summary(field)[:1].lower()}{_summary(field)[1:]}" if field else ""
    return Problem.at(document.mark(location), key, message, value=shown(error["input"]), cure=cure)


def file_location(root: type[BaseModel], location: Location) -> Location:
    """``location`` without the steps that name no place in the file: pydantic adds the tried member of a union, and ``[key]``."""
    return _follow(root, location)[0]


def model_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The section class that describes the mapping at ``location``, as pydantic gives it."""
    kind = _strip(_follow(root, location)[1])
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _follow(root: type[BaseModel], location: Location) -> tuple[Location, Any]:
    """The place in the file, and the type of what stands there."""
    steps: list[str | int] = []
    kind: Any = root
    for step in location:
        kind = _strip(kind)
        if step == "[key]":
            continue
        if len(members := _members(kind)) > 1:  # this step says which of them was tried
            kind = next((m for m in members if _tag(m) == step), members[0])
            continue
        steps.append(step)
        kind = _under(kind, step)
    return tuple(steps), kind


def shown(value: Any) -> str:
    """A value as one would write it in the file, cut where it is long, without a URL's password."""
    text = re.sub(r"(://[^:/@\s]*:|[?&]password=)[^@\s\"&]+", r"\1***", json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 80 else text[:77] + "..."


def _words(kind: str, error: Mapping[str, Any], context: Mapping[str, Any]) -> tuple[str, str]:
    if kind in _WORDS:
        message, cure = _WORDS[kind]
        return message.format(**{name: f"{v:g}" if isinstance(v, float) else v for name, v in context.items()}), cure
    message = str(error["msg"]).removeprefix("Value error, ")
    if "cure" in context:
        return message, str(context["cure"])
    if message.startswith("Input should be "):
        message = "must be " + message.removeprefix("Input should be ")
    cure, given = "write it in that form", error["input"]
    if expected := str(context.get("expected", "")):
        names = [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
        near = _near(str(given), names)
        cure = f"did you mean {near!r}?" if near else f"write one of: {', '.join(names)}"
    return message, cure


def _nearest(location: Location, names: Iterable[str]) -> str:
    names = list(names)
    if synonym := _SYNONYMS.get(location):
        return f"say {synonym}"
    near = _near(str(location[-1]), names)
    return f"did you mean {near!r}?" if near else f"allowed here: {', '.join(names)}"


def _near(given: str, names: list[str]) -> str | None:
    """The name that was probably meant: an alike one, or the only one that begins so."""
    alike = difflib.get_close_matches(given, names, n=1) or [name for name in names if given and name.startswith(given)]
    return alike[0] if len(alike) == 1 else None


def _add(root: type[BaseModel], location: Location) -> str:
    field = _field(root, location)
    summary = _summary(field)
    return f"add '{location[-1]}:'" + (f" - {summary}" if summary else "")


def _field(root: type[BaseModel], location: Location) -> Any:
    model = model_at(root, location[:-1])
    return model.model_fields.get(str(location[-1])) if model and location else None


def _summary(field: Any) -> str:
    """The first sentence of what the field says of itself."""
    text = " ".join((field.description or "").split()) if field is not None else ""
    return text.split(". ")[0].rstrip(".")


def _under(kind: Any, step: str | int) -> Any:
    """The type of what stands under ``step`` of a value of type ``kind``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(step))
        return field.annotation if field else None
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(step, int) and step < len(arguments):
        return arguments[step]
    return arguments[-1] if arguments else None  # the value of a dict, the item of a list


def _members(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [_strip(member) for member in typing.get_args(kind) if member is not type(None)]
    return []


def _tag(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _strip(kind: Any) -> Any:
    """``X | None`` and ``Annotated[X, ...]`` -> X."""
    if typing.get_origin(kind) is typing.Annotated:
        return _strip(typing.get_args(kind)[0])
    members = _members(kind)
    return _strip(members[0]) if len(members) == 1 else kind
