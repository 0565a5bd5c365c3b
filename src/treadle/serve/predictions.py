"""POST /v1/predict: from rows as they come to answers, and what of them is kept."""

from __future__ import annotations

import asyncio
import difflib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.core.errors import RequestError
from treadle.data.fields.audio import AudioField
from treadle.data.fields.base import BadValue
from treadle.data.fields.category import SetField
from treadle.data.fields.events import EventsField
from treadle.data.fields.image import ImageField
from treadle.data.fields.text import TextField
from treadle.data.schema import Schema
from treadle.data.steps.redact import Moves, redact_and_tell
from treadle.data.targets.base import Target
from treadle.data.targets.embedding import EmbeddingTarget
from treadle.data.targets.tags import TagsTarget, moved_spans
from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.writer import Writer
from treadle.store.tables import random_id


def described(worker: Writer | Predictor) -> dict[str, Any]:
    """What a client needs to know to ask: the context of a language model, or the columns and heads of a model of records."""
    if isinstance(worker, Writer):
        return {"kind": "language", "context": worker.context}
    schema = worker.schema
    inputs = [
        {"column": column, "input": name, "kind": schema.model.inputs[name].kind, "choices": _choices(field)}
        for name, field in schema.inputs.items() for column in field.columns
    ]
    heads = [{"name": name, "kind": schema.model.heads[name].kind, "choices": _choices(t), **_more(t)}
             for name, t in schema.targets.items()]
    return {"kind": "records", "inputs": inputs, "heads": heads}


def _more(target: Target) -> dict[str, Any]:
    """Of spans the column whose characters they count; of vectors whether a right cosine can be learned from."""
    if isinstance(target, TagsTarget):
        return {"column": target.text.columns[0]}
    return {"graded": target.graded} if isinstance(target, EmbeddingTarget) else {}


def _choices(field: Any) -> list[str]:
    """The names that a field knows, if it knows any."""
    if isinstance(field, EventsField):
        return []  # it knows the items of a list, not what the list may be
    vocabulary = getattr(field, "vocabulary", None)
    names = getattr(field, "classes", None) or getattr(field, "names", None) or getattr(field, "labels", None)
    return list(names or (vocabulary.names if vocabulary is not None and hasattr(vocabulary, "names") else ()))[:200]


def parse_rows(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Plain columns of every row. Raises ``RequestError`` 422 with the name of the first column at fault."""
    plain: list[Row] = []
    for place, row in enumerate(rows):
        where = f" of record {place}" if len(rows) > 1 else ""
        if row.keys() != schema.asked.keys():
            _check_columns(schema, row, where)
        try:
            _check_forms(schema, row)
            plain.append(schema.parse(row, answers=False))
        except BadValue as error:
            column, _, detail = error.detail.partition(": ")
            said = f" ({detail})" if detail else ""
            message = f"column {column!r}{where}: {error.reason}{said}"
            empty = row.get(column) is None
            cure = "send its value: it cannot be missing" if empty else "mend the value, or send null where it is missing"
            raise RequestError(message, status=422, field=column, cure=cure) from None
    return plain


def _check_columns(schema: Schema, row: Mapping[str, Any], where: str) -> None:
    """Every column that is asked for must be there, and no other than those of the schema. Raises ``RequestError`` 422."""
    for column in schema.asked:
        if column not in row:
            cure = "send every column; null says that its value is missing"
            raise RequestError(f"column {column!r}{where} is not there", status=422, field=column, cure=cure)
    for column in row:
        if column not in schema.by_column:
            near = difflib.get_close_matches(column, schema.asked, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(schema.asked)}"
            raise RequestError(f"column {column[:80]!r}{where} is not known", status=422, field=column[:80], cure=cure)


def _check_forms(schema: Schema, row: Mapping[str, Any]) -> None:
    """A list or an object where one value belongs is a mistake, though its text could be taken for a name. Raises ``BadValue``."""
    for column, value in row.items():
        if isinstance(value, (list, dict)) and column in schema.asked:
            field = schema.asked[column]
            parts = value if isinstance(value, list) and isinstance(field, SetField) else [value]
            if not isinstance(field, _OWN_FORMS) and any(isinstance(part, (list, dict)) for part in parts):
                raise BadValue("a list or an object, where one value is wanted", column)


_OWN_FORMS = (EventsField, ImageField, AudioField)


Moved = dict[str, Moves]
"""Column of a row -> what redaction moved in its text."""


def redact_rows(schema: Schema, rows: Sequence[Row]) -> list[tuple[dict[str, Any], Moved]]:
    """The rows with secrets and personal data in their texts replaced; files as base64 are kept as they came."""
    texts = {column for field in schema.inputs.values() if isinstance(field, TextField) for column in field.columns}
    kept = []
    for row in rows:
        clean, moved = dict(row), {}
        for column in texts & row.keys():
            clean[column], _, moved[column] = redact_and_tell(str(row[column] or "").replace("\0", "\ufffd"))
        kept.append((clean, moved))
    return kept


def _kept_answers(schema: Schema, answer: Prediction, moved: Moved) -> tuple[str, dict[str, Any]]:
    """The answers as they are kept, and of each head whose answers count characters what moved them: what a user says later about
    that answer counts those of the text as it was asked about."""
    text, moves = {}, {}
    for name, given in answer.items():
        target = schema.targets[name]
        text[name] = given["answer"]
        if isinstance(target, TagsTarget):
            moves[name] = moved.get(target.text.columns[0], [])
            text[name] = moved_spans(given["answer"], moves[name])
    return json.dumps(text, ensure_ascii=False), {"moves": moves} if moves else {}


def prediction_rows(
    worker: Predictor, raw: Sequence[Mapping[str, Any]], rows: Sequence[Row], found: Sequence[Prediction], stored: bool,
    started: float, rollout: int | None,
) -> list[dict[str, Any]]:
    """One answer per record as the ledger keeps it: its columns, redacted, and its answers only where ``stored``."""
    ids = [random_id("pred") for _ in rows]
    seconds = (time.monotonic() - started) / len(rows)
    prompts: list[str | None] = [None] * len(rows)
    kept: list[tuple[str | None, dict[str, Any]]] = [(None, {})] * len(rows)
    if stored:
        texts = [{column: value for column, value in row.items() if not isinstance(value, Mapping)} for row in rows]
        clean = redact_rows(worker.schema, texts)
        files = [{column: given[column] for column, value in row.items() if isinstance(value, Mapping)}
                 for given, row in zip(raw, rows, strict=True)]
        prompts = [json.dumps(part | media, ensure_ascii=False) for (part, _), media in zip(clean, files, strict=True)]
        kept = [_kept_answers(worker.schema, answer, moved) for answer, (_, moved) in zip(found, clean, strict=True)]
    same = {
        "version": worker.version.number, "package": worker.version.package, "stored": stored, "prompt_tokens": 0,
        "answer_tokens": 0, "seconds": seconds, "finish_reason": "stop", "rollout": rollout,
    }
    return [
        {"id": id, "prompt": prompt, "text": text, "settings": {"kind": "prediction", **more}, **same}
        for id, prompt, (text, more) in zip(ids, prompts, kept, strict=True)
    ]


async def until_done(future: Any, seconds: float = 120.0) -> Any:
    """The future's result, off the event loop. Raises ``RequestError`` where it was given up or takes too long."""
    try:
        return await (future if asyncio.isfuture(future) else asyncio.wait_for(asyncio.wrap_future(future), seconds))
    except asyncio.CancelledError:
        raise RequestError("the server is stopping", status=503, cure="ask again when it is back") from None
    except TimeoutError:
        raise RequestError("the answer takes too long", status=503, cure="send fewer records at once") from None
