"""Things in a picture, each with a box and a label. N records, L things of the picture that has most.

People and programs give boxes as COCO does: [x, y, width, height], x and y of the upper left corner, in pixels of the whole picture
as it is seen, turned as its EXIF says. The model takes cx, cy, width and height as shares of what it sees of the picture.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.data.augment import ImageChange
from treadle.data.columns import Array, Augment, Column, Numbers, ragged
from treadle.data.fields.base import BadValue, Field, text_of
from treadle.data.fields.image import ImageField, Window
from treadle.data.targets.base import Target

UNSEEN = -1
"""Class of a label that training never saw: no answer can get it right. Others begin at 1; 0 fills up rows."""
Thing = dict[str, Any]
"""``{"box": [x, y, width, height], "label": name}``"""


class BoxesTarget(Target):
    """(things, 5) float32, ragged: class, cx, cy, width, height; one row of NaN where there is no answer. Things whose middle the
    model does not see are left out, what it sees of the others is what counts."""

    arrow = pa.list_(pa.struct([("box", pa.list_(pa.float64())), ("label", pa.string())]))
    image: ImageField

    def meet(self, inputs: Mapping[str, Field]) -> None:
        self.image = next(field for field in inputs.values() if isinstance(field, ImageField))
        self.image.mirrored = False  # the reflection of a thing would be one without a box

    def parse(self, raw: Any) -> list[Thing] | None:
        """A list of mappings, or that as JSON text; [] says that nothing is there, None that nobody knows."""
        if isinstance(raw, str):
            try:
                raw = json.loads(raw) if raw.strip() else None
            except ValueError as error:
                raise BadValue("not a list of boxes", f"no JSON: {error}") from None
        if raw is None or (isinstance(raw, float) and math.isnan(raw)):
            return None
        if not isinstance(raw, Sequence) or isinstance(raw, bytes):
            raise BadValue("not a list of boxes", f"a value of type {type(raw).__name__}")
        return [self._thing(given) for given in raw]

    def _thing(self, given: Any) -> Thing:
        """``{"box", "label"}`` from an entry with the data's own keys, or with these two, which answers have."""
        keys = self.settings.keys
        if not isinstance(given, Mapping):
            raise BadValue("not a list of boxes", f"an entry is a value of type {type(given).__name__}")
        names = (keys.box, keys.label) if keys.box in given else ("box", "label")
        absent = [name for name in names if given.get(name) is None]
        if absent:
            raise BadValue("not a list of boxes", f"an entry has no {' and no '.join(map(repr, absent))}")
        box, label = given[names[0]], text_of(given[names[1]])
        numbers = isinstance(box, Sequence) and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in box)
        if not numbers or len(box) != 4:
            raise BadValue("not a box", f"{str(box)[:60]} is not [x, y, width, height]")
        if not all(map(math.isfinite, box)):
            raise BadValue("not a box", f"{box} is not finite")
        if min(box[2:]) <= 0:
            raise BadValue("box without area", f"{box}")
        if label is None:
            raise BadValue("not a list of boxes", "a label is empty")
        return {"box": [float(n) for n in box], "label": label}

    def agree(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        things: list[Thing] = fields.get(self.columns[0]) or []
        if things:
            seen = self._window(fields)
            for thing in things:
                x, y, wide, high = thing["box"]
                if x >= seen.wide or y >= seen.high or x + wide <= 0 or y + high <= 0:
                    raise BadValue("box outside the picture", f"{thing['box']} of {seen.wide:g} x {seen.high:g} pixels")
        return {}

    def value(self, fields: Mapping[str, Any]) -> tuple[list[str], Array] | None:
        """Labels, and (things, 4) boxes as shares of what the model sees."""
        things: list[Thing] | None = fields.get(self.columns[0])
        if not things:
            return None if things is None else ([], np.zeros((0, 4)))
        seen = self._window(fields)
        x, y, wide, high = np.array([thing["box"] for thing in things], np.float64).T
        # What lies outside the picture is not part of the thing, even where the picture is padded.
        left, right = (np.clip(at, 0, seen.wide) for at in (x, x + wide))
        top, bottom = (np.clip(at, 0, seen.high) for at in (y, y + high))
        corners = np.stack([(left - seen.left) / seen.across, (top - seen.top) / seen.down,
                            (right - seen.left) / seen.across, (bottom - seen.top) / seen.down], 1)
        boxes, kept = clipped(np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1))
        return [thing["label"] for thing, keep in zip(things, kept, strict=True) if keep], boxes[kept]

    def _window(self, fields: Mapping[str, Any]) -> Window:
        return self.image.window(fields[self.image.columns[0]]["bytes"])

    def fit(self, values: Sequence[tuple[list[str], Array] | None]) -> None:
        counts = Counter(label for value in values if value is not None for label in value[0])
        if not counts:
            message = f"head {self.name!r}: no picture of the train part shows anything in a box"
            raise UserError(message, cure="name another field, or give pictures with boxes")
        most = max(len(value[0]) for value in values if value is not None)
        if most > self.settings.queries:
            message = f"head {self.name!r}: a picture shows {most} things, and at most {self.settings.queries} are looked for"
            raise UserError(message, cure=f"raise queries to {most} or, better, half more")
        self.labels = sorted(counts)

    def encode(self, values: Sequence[tuple[list[str], Array] | None]) -> Column:
        ids = {label: id for id, label in enumerate(self.labels, 1)}
        rows = [
            np.full((1, 5), np.nan) if value is None
            else np.column_stack([[ids.get(label, UNSEEN) for label in value[0]], value[1]]) if value[0] else np.zeros((0, 5))
            for value in values
        ]
        return ragged(rows, np.float32, (5,))

    def change(self, seed: int) -> Augment | None:
        """Boxes go where the picture's change takes their things."""
        change = self.image.change(seed)
        extent = self.image.settings.extent

        def move(values: Array, lengths: Numbers | None, numbers: Numbers) -> tuple[Array, Numbers | None]:
            assert isinstance(change, ImageChange)
            middles, growth = change.places(values[..., 1:3].astype(np.float64), numbers, extent)
            boxes, kept = clipped(np.concatenate([middles, values[..., 3:] * growth[:, None, None]], 2))
            found = np.where((values[..., :1] != 0) & kept[..., None], np.concatenate([values[..., :1], boxes], 2), 0)
            return found.astype(np.float32), lengths

        return move if change is not None else None

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """From (N, Q, 6): class, probability, and a box in shares of what the model sees."""
        least = self.settings.threshold
        return [
            {"answer": [
                {"box": [float(n) for n in row[2:]], "label": self.labels[int(row[0]) - 1], "probability": round(float(row[1]), 6)}
                for row in rows if row[1] >= least
            ]}
            for rows in outputs
        ]

    def about(self, answer: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """Boxes in pixels of the whole picture, which they do not leave."""
        seen, found = self._window(fields), []
        for thing in answer["answer"]:
            cx, cy, wide, high = thing["box"]
            left, right = (min(max(seen.left + (cx + side * wide) * seen.across, 0.0), seen.wide) for side in (-0.5, 0.5))
            top, bottom = (min(max(seen.top + (cy + side * high) * seen.down, 0.0), seen.high) for side in (-0.5, 0.5))
            if right > left and bottom > top:
                found.append({**thing, "box": [round(n, 2) for n in (left, top, right - left, bottom - top)]})
        return {**answer, "answer": found}

    @property
    def layout(self) -> Layout:
        options = {name: getattr(self.settings, name) for name in ("weight", "queries", "width", "depth", "threshold")}
        return Layout("boxes", vocabulary=len(self.labels), options=options)

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels = list(state["labels"])


def clipped(boxes: Array) -> tuple[Array, Array]:
    """Boxes (..., 4) of cx, cy, width, height cut to 0 to 1, and which had their middle there (Liu et al. 2016, section 2.2)."""
    low, high = (np.clip(boxes[..., :2] + side * boxes[..., 2:], 0, 1) for side in (-0.5, 0.5))
    inside: Array = np.all((boxes[..., :2] >= 0) & (boxes[..., :2] <= 1) & (high > low), axis=-1)
    return np.concatenate([(low + high) / 2, high - low], -1), inside
