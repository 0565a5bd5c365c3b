"""Feedback -> corpus -> dataset: which answers teach something, and which of them are held out to tell whether it was learned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from tokenizers import Tokenizer

from treadle.core.errors import UserError
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.data.account import Account
from treadle.data.chance import point_of
from treadle.data.fields.base import BadValue
from treadle.data.record import Record, SetAside, content_id, read_records, write_records, write_set_aside
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.shards import END_ID, Document, write_shard
from treadle.data.tokenizer import encode_all, load_tokenizer
from treadle.feedback.records import as_record, write_parts
from treadle.feedback.shares import AGAIN, OVER, over_share, told
from treadle.store.artifacts import Artifact, Store
from treadle.store.ledger import Ledger

CORPUS_VERSION = 2
DATASET_VERSION = 1
HELD_OUT_FLOOR = 5
"""Fewer held-out answers give no interval worth the name."""

LICENCE = "user feedback, given with consent"


def curate(
    rows: Sequence[Mapping[str, Any]], schema: Schema | None = None, share: float = 1.0, least: int = 0, seed: int = 0
) -> tuple[list[Record], list[SetAside], Account]:
    """Rows of ``Ledger.all_feedback`` -> records, what is set aside, and the account. Records have the fields ``prompt`` and
    ``answer``, or those of ``schema``.

    An edited answer teaches the edit, one that was accepted teaches itself. Only the newest word on each answer counts, of one
    key's edits of the same prompt or record the newest, and of one key's records at most ``share`` of all where the others gave
    ``least``.
    """
    newest = {row["answer"]: row["id"] for row in rows}
    read = [_read(row, schema, newest) for row in rows]
    last = {(row["key"], found.group): row["id"] for row, found in zip(rows, read, strict=True) if _edit(found, row)}
    usable: dict[str, tuple[Record, str | None]] = {}
    reasons: list[str | None] = []
    for row, found in zip(rows, read, strict=True):
        if isinstance(found, str):
            reasons.append(found)
        elif _edit(found, row) and last[row["key"], found.group] != row["id"]:
            reasons.append(AGAIN)
        else:
            reasons.append("said before" if found.id in usable else None)
            first, by = usable.get(found.id, (found, row.get("key")))
            usable[found.id] = first, by if by == row.get("key") else None  # what two say is no one's flood
    over = over_share(usable.values(), share, least, seed)
    account, records, aside = Account(), [], []
    for row, found, reason in zip(rows, read, reasons, strict=True):
        account.entered += 1
        if isinstance(found, Record) and reason is None and found.id in over:
            reason = OVER
        if isinstance(found, Record) and reason is None:
            kind = "edited" if row["edited"] is not None else "accepted"
            meta = {"feedback": row["id"], "kind": kind, "version": row["version"], "key": row.get("key")}
            records.append(replace(found, meta=meta))
            account.kept += 1
        else:
            assert reason is not None
            by = f" by the key {row['key']!r}" if row.get("key") else ""
            aside.append(SetAside(f"answer {row['answer']}", reason, f"feedback {row['id']}{by}"))
            account.set_aside[reason] += 1
    return records, aside, account


def _read(row: Mapping[str, Any], schema: Schema | None, newest: Mapping[str, int]) -> Record | str:
    """What the row teaches, or why it teaches nothing."""
    answer = row["edited"] if row["edited"] is not None else row["text"]
    reason = _unusable(row, newest, answer)
    if reason is not None:
        return reason
    try:
        return as_record(row, str(answer), schema, LICENCE) if schema else _text_record(row, str(answer))
    except BadValue as error:
        return error.reason


def _edit(found: Record | str, row: Mapping[str, Any]) -> TypeGuard[Record]:
    """Whether it is an edit that a key can take the place of."""
    return isinstance(found, Record) and row["edited"] is not None and row.get("key") is not None


def _text_record(row: Mapping[str, Any], answer: str) -> Record:
    fields = {"prompt": str(row["prompt"]), "answer": answer}
    return Record(content_id(fields), fields, f"answer {row['answer']}", LICENCE, _group(fields["prompt"]))


def _unusable(row: Mapping[str, Any], newest: Mapping[str, int], answer: str | None) -> str | None:
    if newest[row["answer"]] != row["id"]:
        return "superseded"
    if row["prompt"] is None or answer is None:
        return "text not stored"
    if row["edited"] is None and row["rating"] != "up":
        return "rejected without an edit"
    return None if answer.strip() else "empty"


def feedback_corpus(project: Project, store: Store, ledger: Ledger, base: Artifact) -> Artifact:
    """Everything that users taught so far, as a corpus, read as the version ``base`` reads it. Raises ``UserError`` where that is
    too little for a round."""
    rows = [dict(row) for row in ledger.all_feedback()]
    schema = Schema.load(base.path) if (base.path / FIELDS_FILE).exists() else None
    settings = project.spec.improve
    least = settings.min_feedback
    records, aside, account = curate(rows, schema, settings.max_share, least, project.spec.seed)
    if len(records) < least:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(account.set_aside.items()))
        cure = "collect more on the page or by POST /v1/feedback, or lower improve.min_feedback"
        message = f"{len(rows)} pieces of feedback, {len(records)} usable{f' ({reasons})' if reasons else ''}: {least} are needed"
        raise UserError(message, cure=cure)
    config = {"feedback": [row["id"] for row in rows], "records": [record.id for record in records]}
    making = store.making("corpus", (), config, CORPUS_VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    with making.draft() as draft:
        write_records(draft.path / "records.parquet", records, schema.arrow if schema else ("prompt", "answer"))
        write_set_aside(draft.path / "quarantine.parquet", aside)
        size = sum(len(str(value).encode()) for record in records for value in record.fields.values())
        answers = {"pattern": "users' feedback", "licence": LICENCE, "files": len(records), "bytes": size}
        keys = told(rows, (record.meta["key"] for record in records))
        draft.counts.update({"account": account.as_dict(), "bytes": size, "redacted": {}, "sources": [answers], "keys": keys})
    return making.open()


def feedback_dataset(project: Project, store: Store, corpus: Artifact, base: Artifact) -> Artifact:
    """``corpus`` in the tokens or fields of the version ``base``: prompts are read, answers are predicted. A prompt, or a record's
    inputs, is in one part only."""
    holdout, seed = project.spec.improve.holdout, project.spec.seed
    config = {"holdout": holdout, "seed": seed, "tokenizer": base.id}
    making = store.making("dataset", (corpus.id,), config, DATASET_VERSION, seed)
    if cached := making.cached():
        return cached
    records = list(read_records(corpus.path / "records.parquet"))
    parts: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    for record in records:
        parts["test" if point_of(record.group, seed) < holdout else "train"].append(record)
    if len(parts["test"]) < HELD_OUT_FLOOR or not parts["train"]:
        cure = "collect feedback on more different prompts, or raise improve.holdout"
        message = f"{len(parts['test'])} of {len(records)} answers are held out (whole prompts are): {HELD_OUT_FLOOR} are needed"
        raise UserError(message, cure=cure)
    say(f"feedback: {len(parts['train'])} answers to learn from, {len(parts['test'])} held out")
    if (base.path / FIELDS_FILE).exists():
        with making.draft() as draft:
            draft.counts.update(write_parts(draft, base, parts))
        return making.open()
    tokenizer = load_tokenizer(base.path / "tokenizer.json")
    with making.draft() as draft:
        tokenizer.save(str(draft.path / "tokenizer.json"))
        counts = {part: write_shard(draft.path, part, _documents(tokenizer, kept)) for part, kept in parts.items()}
        total = sum(c["bytes"] for c in counts.values()) / max(1, sum(c["tokens"] for c in counts.values()))
        draft.counts.update({"parts": counts, "vocabulary": tokenizer.get_vocab_size(), "bytes_per_token": total})
    return making.open()


def _documents(tokenizer: Tokenizer, records: Sequence[Record]) -> list[Document]:
    """Prompt and answer are encoded apart, as the server does, so that the boundary falls where it will when answering."""
    prompts = encode_all(tokenizer, (record.fields["prompt"] for record in records))
    answers = encode_all(tokenizer, (record.fields["answer"] for record in records))
    documents = []
    for record, prompt, answer in zip(records, prompts, answers, strict=True):
        targets = [0] * len(prompt) + [1] * (len(answer) + 1)
        size = len(record.fields["answer"].encode())
        documents.append(Document(record.id, record.source, [*prompt, *answer, END_ID], size, targets))
    return documents


def _group(prompt: str) -> str:
    return hashlib.sha256(prompt.strip().encode()).hexdigest()[:16]
