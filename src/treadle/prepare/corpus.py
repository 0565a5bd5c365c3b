"""Collect and clean: the project's sources -> a corpus. Nothing is dropped in silence: in = kept + set aside, by reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from treadle.core.errors import SourceError
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.account import Account, account_lines
from treadle.data.fields.base import BadValue
from treadle.data.fields.text import TextField
from treadle.data.record import Record, SetAside, write_records, write_set_aside
from treadle.data.schema import Schema
from treadle.data.sources.collect import collect, place_of
from treadle.data.steps.dedupe import Clusters, exact_clusters, near_clusters
from treadle.data.steps.generated import generated_note
from treadle.data.steps.redact import Moves, redact, redact_and_tell
from treadle.spec.data import Clean, source_name
from treadle.store.artifacts import Artifact, Store

VERSION = 3
"""Raise it when the same sources and settings give another corpus."""

RECORDS = "records.parquet"
QUARANTINE = "quarantine.parquet"


@dataclass
class Stock:
    """Records on their way through the steps, in the order of the sources, and what fell out on the way."""

    kept: list[Record]
    aside: list[SetAside] = field(default_factory=list)
    redacted: Counter[str] = field(default_factory=Counter)

    def sieve(self, reasons: Sequence[tuple[str, str] | None]) -> None:
        """Set aside the records that have a (reason, detail)."""
        pairs = list(zip(self.kept, reasons, strict=True))
        self.aside += [SetAside(record.source, why[0], why[1], record.id) for record, why in pairs if why]
        self.kept = [record for record, why in pairs if not why]


def make_corpus(project: Project, store: Store) -> Artifact:
    """The corpus of the project's sources as they are now; the one in the store where nothing has changed.

    Raises ``SourceError`` where a source names nothing, or where nothing is left to learn from.
    """
    data, model = project.spec.data, project.spec.model
    schema = None if model.predicts_text else Schema(model)
    kind = Running(next(iter(model.inputs))) if schema is None else Rows(schema)
    collected = _collect(project, schema)
    config = {
        "sources": [source.model_dump() for source in data.sources], "clean": data.clean.model_dump(),
        "by": data.split.by, "fields": {name: str(type) for name, type in kind.types.items()},
        "content": _fingerprint(collected, project),
    }
    making = store.making("corpus", [], config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    items = [item for part in collected for item in part]
    stock = Stock([i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, SetAside)])
    _clean(stock, data.clean, kind)
    account = Account(len(items), len(stock.kept), Counter(item.reason for item in stock.aside))
    if not stock.kept:
        raise SourceError(
            "data.sources: nothing is left to learn from\n" + "\n".join(f"    {line}" for line in account_lines(account.as_dict())),
            cure="add sources, or loosen data.clean and the exclude globs",
        )
    with making.draft() as draft:
        write_records(draft.path / RECORDS, stock.kept, kind.types)
        write_set_aside(draft.path / QUARANTINE, stock.aside)
        draft.counts |= {
            "account": account.as_dict(), "bytes": sum(_size(record) for record in stock.kept),
            "redacted": dict(sorted(stock.redacted.items())), "sources": _source_counts(project, stock),
        }
    return making.open()


class Running:
    """Running text in one field: all cleaning is for it."""

    running = True

    def __init__(self, name: str) -> None:
        self.texts = (name,)
        self.types = {name: pa.string()}

    def moved(self, fields: Mapping[str, Any], column: str, text: str, moves: Moves) -> dict[str, Any]:
        """A record's fields with another text, which came about by ``moves``."""
        return {**fields, column: text}


class Rows:
    """Records with answers: texts among their fields are redacted; copies may be two cases, so they stay unless asked."""

    running = False

    def __init__(self, schema: Schema) -> None:
        self.types = schema.arrow
        texts = [column for field in schema.inputs.values() if isinstance(field, TextField) for column in field.columns]
        self.texts = tuple(texts)
        self.moved = schema.moved


def _collect(project: Project, schema: Schema | None) -> list[list[Record | SetAside]]:
    """What each source gives, in order."""
    data = project.spec.data
    with task("collecting", total=len(data.sources), unit="sources") as work:
        found = []
        for number, source in enumerate(data.sources):
            place = place_of(project, number, schema)
            found.append([_from_source(item, number) for item in collect(source, place)])
            work.advance(1, source_name(source))
    return found


def _from_source(item: Record | SetAside, number: int) -> Record | SetAside:
    """A record knows which source it is from: two may have one pattern."""
    return replace(item, meta={**item.meta, "from": number}) if isinstance(item, Record) else item


def _fingerprint(collected: Sequence[Sequence[Record | SetAside]], project: Project) -> str:
    """Of every file that was looked into: its path, and its content or why it has none. Files that the settings exclude do not
    count: what is installed beside the sources makes no new corpus."""
    digest = hashlib.sha256()
    for source, items in zip(project.spec.data.sources, collected, strict=True):
        for item in items:
            if isinstance(item, Record):
                digest.update(f"{item.source}\0{item.id}\n".encode())
            elif item.reason not in getattr(source, "exclude", ()):
                digest.update(f"{item.source}\0{item.reason}\0{item.detail}\n".encode())
    return digest.hexdigest()


def _clean(stock: Stock, clean: Clean, kind: Running | Rows) -> None:
    """Every step in turn. Redaction comes before the search for copies, which would else differ in an address alone."""
    if kind.running:
        stock.sieve([_too_short(record, clean.min_size) for record in stock.kept])
    if kind.running and clean.generated == "drop":
        notes = [generated_note(record.fields[kind.texts[0]]) for record in stock.kept]
        stock.sieve([("generated", note) if note else None for note in notes])
    for name in kind.texts:
        _redact(stock, clean, name, kind)
    wanted = clean.dedupe or ("near" if kind.running else "none")
    if kind.running:
        _dedupe(stock, clean, wanted, kind.texts[0])
    else:
        _part_leaks(stock)
        if wanted != "none":
            _keep_first(stock, exact_clusters(record.id for record in stock.kept), "exact duplicate")
        if wanted == "near" and kind.texts:
            texts = [" ".join(str(record.fields[name]) for name in kind.texts) for record in stock.kept]
            _keep_first(stock, near_clusters(texts, clean.similarity), "near duplicate")


def _part_leaks(stock: Stock) -> None:
    """Set aside what is given to be trained on and stands in a held-out part too: it would be known already."""
    def whole(record: Record) -> str:  # columns that the model does not read tell two cases apart
        return str(record.meta.get("row", record.id))

    held_out = {whole(record): record.source for record in stock.kept if record.meta.get("part") in ("test", "validation")}
    found = [held_out.get(whole(record)) if record.meta.get("part") == "train" else None for record in stock.kept]
    stock.sieve([("also held out", f"as {source}") if source else None for source in found])


def _too_short(record: Record, least: int) -> tuple[str, str] | None:
    size = _size(record)
    return ("too short", f"{size} bytes") if size < least else None


def _redact(stock: Stock, clean: Clean, name: str, kind: Running | Rows) -> None:
    """Redact, or set aside what holds secrets or personal data, each as its setting says. Answers that count characters of the text
    move with them."""
    for asked, reason, only in ((clean.secrets, "secret", "secrets"), (clean.pii, "personal data", "pii")):
        if asked == "drop":
            found = [redact(record.fields[name], secrets=only == "secrets", pii=only == "pii")[1] for record in stock.kept]
            stock.sieve([(reason, ", ".join(sorted(kinds))) if kinds else None for kinds in found])
    secrets, pii = clean.secrets == "redact", clean.pii == "redact"
    if not (secrets or pii):
        return
    lost: list[tuple[str, str] | None] = [None] * len(stock.kept)
    with task("redacting", total=sum(len(record.fields[name]) for record in stock.kept), unit="characters") as work:
        for number, record in enumerate(stock.kept):
            text, kinds, moves = redact_and_tell(record.fields[name], secrets, pii)
            work.advance(len(record.fields[name]))
            if kinds:
                stock.redacted += kinds
                try:
                    stock.kept[number] = record.with_fields(kind.moved(record.fields, name, text, moves))
                except BadValue as error:
                    lost[number] = (error.reason, f"once redacted, {error.detail}")
    stock.sieve(lost)


def _dedupe(stock: Stock, clean: Clean, wanted: str, name: str) -> None:
    """Set aside copies of an earlier record; near-copies that stay are given one group, so that no split parts them."""
    if wanted != "none":
        _keep_first(stock, exact_clusters(record.fields[name] for record in stock.kept), "exact duplicate")
    texts = [record.fields[name] for record in stock.kept]
    with task("comparing", total=sum(map(len, texts)), unit="characters") as work:
        near = near_clusters(texts, clean.similarity, work.advance)
    if wanted == "near":
        _keep_first(stock, near, "near duplicate")
    else:
        stock.kept = _one_group(stock.kept, near)


def _keep_first(stock: Stock, clusters: Clusters, reason: str) -> None:
    first = [clusters.first(number) for number in range(len(stock.kept))]
    stock.sieve([(reason, f"of {stock.kept[f].source}") if f != n else None for n, f in enumerate(first)])


def _one_group(records: Sequence[Record], clusters: Clusters) -> list[Record]:
    """Groups that share a cluster become one, named by the first of their names."""
    names = sorted({record.group for record in records})
    place = {group: number for number, group in enumerate(names)}
    joined = Clusters(len(names))
    for number, record in enumerate(records):
        joined.join(place[record.group], place[records[clusters.first(number)].group])
    return [replace(record, group=names[joined.first(place[record.group])]) for record in records]


def _source_counts(project: Project, stock: Stock) -> list[dict[str, Any]]:
    counts = []
    for number, source in enumerate(project.spec.data.sources):
        own = [record for record in stock.kept if record.meta["from"] == number]
        size = sum(_size(record) for record in own)
        counts.append({"pattern": source_name(source), "licence": source.licence, "files": len(own), "bytes": size})
    return counts


def _size(record: Record) -> int:
    """Bytes of its content: of texts and files as they are, eight for anything else."""
    return sum(_bytes(value) for value in record.fields.values())


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8"))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    return len(value) if isinstance(value, bytes) else 8
