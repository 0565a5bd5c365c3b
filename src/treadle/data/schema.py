"""A project's fields together: what its inputs read and what its heads are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from treadle.core.errors import ArtifactError
from treadle.core.layout import Layout
from treadle.data.columns import Augment, Column
from treadle.data.fields.audio import AudioField
from treadle.data.fields.base import BadValue, Field
from treadle.data.fields.category import BooleanField, CategoryField, SetField
from treadle.data.fields.date import DateField
from treadle.data.fields.events import EventsField, ItemField
from treadle.data.fields.image import ImageField
from treadle.data.fields.number import NumberField
from treadle.data.fields.text import PairField, TextField
from treadle.data.record import Record
from treadle.data.steps.redact import Moves
from treadle.data.targets.base import Target
from treadle.data.targets.boxes import BoxesTarget
from treadle.data.targets.embedding import EmbeddingTarget
from treadle.data.targets.items import NextItemTarget
from treadle.data.targets.scalar import BinaryTarget, ClassTarget, LabelsTarget, NumberTarget
from treadle.data.targets.tags import TagsTarget
from treadle.data.targets.transcript import TranscriptTarget
from treadle.spec.inputs import Input
from treadle.spec.model import Model

FIELDS: dict[str, type[Field]] = {
    "text": TextField, "pair": PairField, "number": NumberField, "category": CategoryField, "boolean": BooleanField,
    "date": DateField, "set": SetField,
    "image": ImageField,
    "audio": AudioField, "events": EventsField, "item": ItemField,
}
TARGETS: dict[str, type[Target]] = {
    "category": ClassTarget, "binary": BinaryTarget, "number": NumberTarget, "labels": LabelsTarget,
    "tags": TagsTarget, "embedding": EmbeddingTarget,
    "ctc": TranscriptTarget, "next_item": NextItemTarget,
    "boxes": BoxesTarget,
}
FILE = "fields.json"


class Schema:
    """The inputs' fields and the heads' targets by name."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.inputs = {
            name: FIELDS[_kind(given)](name, given.settings, given.columns(name)) for name, given in model.inputs.items()
        }
        self.targets = {
            name: TARGETS[head.kind](name, head.settings, (column,) if (column := head.column(name)) else ())
            for name, head in model.heads.items()
        }
        for field in self._all():
            field.meet(self.inputs)

    @cached_property
    def by_column(self) -> dict[str, Field]:
        """The field that reads each column of a record; inputs first."""
        found: dict[str, Field] = {}
        for field in self._all():
            for column in field.columns:
                found.setdefault(column, field)
        return found

    @cached_property
    def asked(self) -> dict[str, Field]:
        """Of ``by_column`` what a model is asked with: not the columns with right answers."""
        return {column: field for column, field in self.by_column.items() if column not in self.answers}

    @cached_property
    def answers(self) -> frozenset[str]:
        """Columns with right answers."""
        return frozenset(column for target in self.targets.values() for column in target.columns)

    @property
    def arrow(self) -> dict[str, pa.DataType]:
        """Each column's type at rest."""
        return {column: field.arrow for column, field in self.by_column.items()}

    def parse(self, raw: Mapping[str, Any], answers: bool = True) -> dict[str, Any]:
        """A row as it comes -> plain columns. Raises ``BadValue``, whose detail names the column. Without ``answers`` only the
        inputs' columns are read."""
        plain = {}
        for column, field in (self.by_column if answers else self.asked).items():
            try:
                plain[column] = field.parse(raw.get(column))
            except BadValue as error:
                raise BadValue(error.reason, f"{column}: {error.detail}" if error.detail else column) from None
        return self._agreed(plain) if answers else plain

    def _agreed(self, plain: dict[str, Any]) -> dict[str, Any]:
        for target in self.targets.values():
            try:
                plain |= target.agree(plain)
            except BadValue as error:
                raise BadValue(error.reason, f"{target.name}: {error.detail}") from None
        return plain

    @property
    def whole(self) -> frozenset[str]:
        """Columns of texts whose characters are counted, so that not even the spaces around them may go."""
        fields = (field for field in self.inputs.values() if isinstance(field, TextField) and field.whole)
        return frozenset(column for field in fields for column in field.columns)

    def moved(self, fields: Mapping[str, Any], column: str, text: str, moves: Moves) -> dict[str, Any]:
        """A record's plain columns with ``text`` in ``column``, which came about by ``moves``. Raises ``BadValue`` where an answer
        cannot follow."""
        answers = {own: target.moved(fields[own], column, moves) for target in self.targets.values() for own in target.columns}
        return self._agreed({**fields, **answers, column: text})

    def fit(self, records: Sequence[Record], folder: Path = Path()) -> None:
        """Learn from the train part; relative paths in the settings start at ``folder``."""
        for field in self._all():
            field.find(folder)
            field.fit([field.value(record.fields) for record in records])

    def rows(self, fields: Mapping[str, Any], training: bool) -> list[Mapping[str, Any]]:
        """What the model is asked of a record's plain columns: as many rows as its heads make of it."""
        rows = [fields]
        for target in self.targets.values():
            rows = [asked for row in rows for asked in target.rows(row, training)]
        return rows

    def encode_inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
        """Plain columns of N rows -> the inputs as arrays."""
        return {name: field.encode([field.value(row) for row in rows]) for name, field in self.inputs.items()}

    def encode_targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
        """Plain columns of N rows -> the heads' right answers as arrays."""
        return {name: target.encode([target.value(row) for row in rows]) for name, target in self.targets.items()}

    @property
    def layouts(self) -> dict[str, dict[str, Layout]]:
        """``inputs`` and ``heads``, once fitted."""
        return {
            "inputs": {name: field.layout for name, field in self.inputs.items()},
            "heads": {name: target.layout for name, target in self.targets.items()},
        }

    def changes(self, seed: int) -> dict[str, Augment]:
        """Input's name -> what changes its values at random in training, for the inputs that ask for it."""
        return _made({name: field.change(seed) for name, field in self.inputs.items()})

    def moves(self, seed: int) -> dict[str, Augment]:
        """Head's name -> what becomes of its right answers where the inputs are changed."""
        return _made({name: target.change(seed) for name, target in self.targets.items()})

    def save(self, folder: Path) -> None:
        """Write fields.json: the model section and what each field learned."""
        states = {f"{kind}.{name}": field.state() for kind, part in self._parts() for name, field in part.items()}
        text = json.dumps({"model": self.model.model_dump(mode="json"), "states": states}, ensure_ascii=False)
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Schema:
        """As saved. Raises ``ArtifactError`` where the file is missing or damaged."""
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            made = cls(Model.model_validate(found["model"]))
            for kind, part in made._parts():
                for name, field in part.items():
                    field.restore(found["states"][f"{kind}.{name}"])
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"cannot read {folder / FILE}: {error}", cure="remove that artifact and run again") from None
        return made

    def _parts(self) -> Iterator[tuple[str, Mapping[str, Field]]]:
        yield "inputs", self.inputs
        yield "heads", self.targets

    def _all(self) -> Iterator[Field]:
        for _, part in self._parts():
            yield from part.values()


def _made(changes: Mapping[str, Augment | None]) -> dict[str, Augment]:
    return {name: change for name, change in changes.items() if change is not None}


def _kind(given: Input) -> str:
    """The kind of field: a category that names a history's items is one of them."""
    return "item" if given.category and given.category.items else given.kind
