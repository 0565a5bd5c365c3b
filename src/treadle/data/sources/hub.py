"""A data set by name, or a local folder of one, through the library ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.core.errors import SourceError
from treadle.data.sources.base import Place, Rows
from treadle.spec.data import HubSource


def hub_rows(spec: HubSource, place: Place) -> Rows:
    """(row number, row) in the data set's order; classes by their names, images and recordings as ``{bytes, path}``. Raises
    ``SourceError``."""
    try:
        import datasets  # seconds
    except ImportError:
        cure = "pip install 'treadle[hub]'"
        raise SourceError(f"{place.key}.dataset: reading data sets by name needs the library 'datasets'", cure=cure) from None
    local = place.folder / spec.dataset
    try:
        found: Any = datasets.load_dataset(str(local) if local.is_dir() else spec.dataset, spec.config, split=spec.rows)
    except Exception as error:  # the library raises what its many readers raise
        cure = "check its name, config and rows; a folder is named relative to the project's"
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"{place.key}.dataset: cannot load {spec.dataset!r}: {said}", cure=cure) from None
    names: dict[str, list[str]] = {}
    for column, feature in found.features.items():
        if hasattr(feature, "decode"):  # the model's own reader decodes it
            found = found.cast_column(column, type(feature)(decode=False))
        elif isinstance(feature, datasets.ClassLabel):
            names[column] = list(feature.names)
    for number, row in enumerate(found, 1):
        yield f"{spec.dataset} {spec.rows}:{number}", _named(row, names)


def _named(row: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """Class numbers as names; -1 is none."""
    plain = dict(row)
    for column, known in names.items():
        value = plain[column]
        plain[column] = known[value] if value is not None and value >= 0 else None
    return plain
