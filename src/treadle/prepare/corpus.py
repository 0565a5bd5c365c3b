"""Collect and clean: the project's sources -> a corpus. Nothing is dropped in silence: in = kept + set aside, by reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from treadle.core.errors import SourceError
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.account import Account, account_lines
from treadle.data.record import Record, SetAside, write_records, write_set_aside
from treadle.data.sources.base import Place
from treadle.data.sources.collect import collect
from treadle.data.steps.dedupe import Clusters, exact_clusters, near_clusters
from treadle.data.steps.generated import generated_note
from treadle.data.steps.redact import redact
from treadle.spec.data import Clean
from treadle.store.artifacts import Artifact, Store

VERSION = 1
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
    data, name = project.spec.data, next(iter(project.spec.model.inputs))
    collected = _collect(project, name)
    config = {
        "sources": [source.model_dump() for source in data.sources], "clean": data.clean.model_dump(),
        "by": data.split.by, "field": name, "content": _fingerprint(collected, project),
    }
    making = store.making("corpus", [], config, VERSION, project.spec.seed)
    if cached := making.cached():
        return cached
    items = [item for part in collected for item in part]
    stock = Stock([i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, SetAside)])
    _clean(stock, data.clean, name)
    account = Account(len(items), len(stock.kept), Counter(item.reason for item in stock.aside))
    if not stock.kept:
        raise SourceError(
            "data.sources: nothing is left to learn from\n" + "\n".join(f"    {line}" for line in account_lines(account.as_dict())),
            cure="add sources, or loosen data.clean and the exclude globs",
        )
    with making.draft() as draft:
        write_records(draft.path / RECORDS, stock.kept, [name])
        write_set_aside(draft.path / QUARANTINE, stock.aside)
        draft.counts |= {
            "account": account.as_dict(), "bytes": sum(_size(record, name) for record in stock.kept),
            "redacted": dict(sorted(stock.redacted.items())), "sources": _source_counts(project, stock, name),
        }
    return making.open()


def _collect(project: Project, name: str) -> list[list[Record | SetAside]]:
    """What each source gives, in order."""
    data = project.spec.data
    with task("collecting", total=len(data.sources), unit="sources") as work:
        found = []
        for number, source in enumerate(data.sources):
            place = Place(project.folder, f"data.sources.{number}", name, data.clean.max_size, data.split.by)
            found.append(list(collect(source, place)))
            work.advance(1, source.files)
    return found


def _fingerprint(collected: Sequence[Sequence[Record | SetAside]], project: Project) -> str:
    """Of every file that was looked into: its path, and its content or why it has none. Files that the settings exclude do not
    count: what is installed beside the sources makes no new corpus."""
    digest = hashlib.sha256()
    for source, items in zip(project.spec.data.sources, collected, strict=True):
        for item in items:
            if isinstance(item, Record):
                digest.update(f"{item.source}\0{item.id}\n".encode())
            elif item.reason not in source.exclude:
                digest.update(f"{item.source}\0{item.reason}\0{item.detail}\n".encode())
    return digest.hexdigest()


def _clean(stock: Stock, clean: Clean, name: str) -> None:
    """Every step in turn. Redaction comes before the search for copies, which would else differ in an address alone."""
    stock.sieve([_too_short(record, clean.min_size, name) for record in stock.kept])
    if clean.generated == "drop":
        notes = [generated_note(record.fields[name]) for record in stock.kept]
        stock.sieve([("generated", note) if note else None for note in notes])
    _redact(stock, clean, name)
    _dedupe(stock, clean, name)


def _too_short(record: Record, least: int, name: str) -> tuple[str, str] | None:
    size = _size(record, name)
    return ("too short", f"{size} bytes") if size < least else None


def _redact(stock: Stock, clean: Clean, name: str) -> None:
    """Redact, or set aside what holds secrets or personal data, each as its setting says."""
    for asked, reason, only in ((clean.secrets, "secret", "secrets"), (clean.pii, "personal data", "pii")):
        if asked == "drop":
            found = [redact(record.fields[name], secrets=only == "secrets", pii=only == "pii")[1] for record in stock.kept]
            stock.sieve([(reason, ", ".join(sorted(kinds))) if kinds else None for kinds in found])
    secrets, pii = clean.secrets == "redact", clean.pii == "redact"
    if not (secrets or pii):
        return
    with task("redacting", total=sum(len(record.fields[name]) for record in stock.kept), unit="characters") as work:
        for number, record in enumerate(stock.kept):
            text, kinds = redact(record.fields[name], secrets, pii)
            work.advance(len(record.fields[name]))
            if kinds:
                stock.kept[number] = record.with_fields({**record.fields, name: text})
                stock.redacted += kinds


def _dedupe(stock: Stock, clean: Clean, name: str) -> None:
    """Set aside copies of an earlier record; near-copies that stay are given one group, so that no split parts them."""
    if clean.dedupe != "none":
        _keep_first(stock, exact_clusters(record.fields[name] for record in stock.kept), "exact duplicate")
    texts = [record.fields[name] for record in stock.kept]
    with task("comparing", total=sum(map(len, texts)), unit="characters") as work:
        near = near_clusters(texts, clean.similarity, work.advance)
    if clean.dedupe == "near":
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


def _source_counts(project: Project, stock: Stock, name: str) -> list[dict[str, Any]]:
    counts = []
    for source in project.spec.data.sources:
        own = [record for record in stock.kept if record.meta["pattern"] == source.files]
        size = sum(_size(record, name) for record in own)
        counts.append({"pattern": source.files, "licence": source.licence, "files": len(own), "bytes": size})
    return counts


def _size(record: Record, name: str) -> int:
    return len(record.fields[name].encode("utf-8"))
