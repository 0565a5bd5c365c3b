"""A place for sources of rows, and what they give there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from treadle.data.record import Record, SetAside
from treadle.data.schema import Schema
from treadle.data.sources.base import Place
from treadle.data.sources.collect import collect
from treadle.spec.data import _SOURCE, AnySource
from treadle.spec.model import Model


def source(**keys: Any) -> AnySource:
    return _SOURCE.validate_python({"licence": "MIT", **keys})


def place(folder: Path, inputs: dict[str, Any] | None = None, heads: dict[str, Any] | None = None, **more: Any) -> Place:
    """Of a model with ``inputs`` and ``heads``; without them, of running text in the field ``text``."""
    schema = None
    if inputs is not None:
        schema = Schema(Model.model_validate({"inputs": inputs, "heads": heads or {"y": "category"}, "trunk": "mlp"}))
    return Place(folder, "data.sources.0", "text", 1000, more.pop("by", "file"), schema, cache=folder / "downloads", **more)


def gather(spec: AnySource, at: Place) -> tuple[list[Record], list[SetAside]]:
    items = list(collect(spec, at))
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, SetAside)]
