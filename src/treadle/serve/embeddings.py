"""POST /v1/embeddings: texts as records of a model whose head gives vectors, and its vectors in OpenAI's form."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from treadle.core.errors import RequestError
from treadle.data.fields.base import BadValue
from treadle.data.schema import Schema
from treadle.data.targets.embedding import EmbeddingTarget
from treadle.serve.predictor import Prediction, Row


class Texts:
    """``texts`` as rows that ``schema`` knows. Raises ``RequestError``: 404 for a model that gives no vectors of texts, 400 for a
    text that is empty or longer than the model reads."""

    def __init__(self, schema: Schema, texts: Sequence[str]) -> None:
        self._head, target = _head(schema)
        first, second = target.pair.columns
        self.rows: list[Row] = []
        for place, text in enumerate(texts):
            field = f"input[{place}]" if len(texts) > 1 else "input"
            try:
                row = schema.parse({first: text, second: None}, answers=False)
            except BadValue as error:
                raise RequestError(f"{field}: {error.reason}", field=field, cure="send text that UTF-8 can hold") from None
            if not row[first]:
                raise RequestError(f"{field}: there is no text", field=field, cure="leave it out")
            self.rows.append(row)
        counts = target.pair.counts([row[first] for row in self.rows])
        most = target.pair.settings.context
        long = next((place for place, count in enumerate(counts) if count > most), None)
        if long is not None:
            field = f"input[{long}]" if len(texts) > 1 else "input"
            cure = "shorten it, or ask POST /v1/predict, which reads as much as fits"
            message = f"{field}: the text is {counts[long]} tokens, more than the {most} of the model's context"
            raise RequestError(message, field=field, cure=cure)
        self.tokens = sum(counts)
        """Of all texts, the tokenizer's marks included."""

    def data(self, found: Sequence[Prediction], dimensions: int | None, form: Literal["float", "base64"]) -> list[dict[str, Any]]:
        """OpenAI's objects of the vectors in ``found``. Raises ``RequestError`` where they have not as many ``dimensions``."""
        vectors = [answer[self._head]["answer"] for answer in found]
        if dimensions not in (None, len(vectors[0])):
            message = f"dimensions: the model's vectors have {len(vectors[0])}, not {dimensions}"
            raise RequestError(message, field="dimensions", cure="leave it out")
        coded = [_coded(vector) for vector in vectors] if form == "base64" else vectors
        return [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(coded)]


def _head(schema: Schema) -> tuple[str, EmbeddingTarget]:
    for name, target in schema.targets.items():
        if isinstance(target, EmbeddingTarget) and set(schema.by_column) - set(schema.answers) == set(target.pair.columns):
            return name, target
    cure = "ask POST /v1/predict; vectors come of a model with a head 'embedding' that reads nothing but texts"
    raise RequestError("this model gives no vectors of texts", status=404, cure=cure)


def _coded(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
