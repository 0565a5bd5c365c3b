"""Split and tokenise: a corpus -> a dataset of memory-mapped shards with the tokenizer learned on its train part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from treadle.core.errors import UserError
from treadle.core.progress import task
from treadle.core.project import Project
from treadle.data.record import Record, read_records
from treadle.data.shards import END_ID, PARTS, Document, write_shard
from treadle.data.tokenizer import encode_all, train_tokenizer
from treadle.prepare.corpus import RECORDS
from treadle.spec.data import Split
from treadle.store.artifacts import Artifact, Store

VERSION = 1
"""Raise it when the same corpus and settings give another dataset."""

TOKENIZER = "tokenizer.json"


def part_of(group: str, seed: int, split: Split) -> str:
    """The part that ``group`` belongs to: by its name and the seed alone, so that it stays there whatever is added later."""
    point = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big") / 2**64
    if point < split.test:
        return "test"
    return "validation" if point < split.test + split.validation else "train"


def make_dataset(project: Project, store: Store, corpus: Artifact) -> Artifact:
    """The dataset of ``corpus`` under the project's split and vocabulary; the one in the store where nothing has changed.

    Raises ``UserError`` where a part would be empty.
    """
    name, text = next(iter(project.spec.model.inputs.items()))
    split, seed = project.spec.data.split, project.spec.seed
    config = {"split": split.model_dump(), "seed": seed, "vocabulary": text.tokenizer.bpe, "field": name}
    making = store.making("dataset", [corpus.id], config, VERSION, seed)
    if cached := making.cached():
        return cached
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in read_records(corpus.path / RECORDS):
        parts[part_of(record.group, seed, split)].append(record)
    _check(parts, split)
    with making.draft() as draft:
        tokenizer = _learn(parts["train"], name, text.tokenizer.bpe)
        tokenizer.save(str(draft.path / TOKENIZER), pretty=False)
        counts = {}
        with task("encoding", total=sum(map(len, parts.values())), unit="records") as work:
            for part, records in parts.items():
                counts[part] = write_shard(draft.path, part, _documents(tokenizer, records, name))
                work.advance(len(records), part)
        tokens, size = (sum(count[of] for count in counts.values()) for of in ("tokens", "bytes"))
        draft.counts |= {"parts": counts, "vocabulary": tokenizer.get_vocab_size(), "bytes_per_token": round(size / tokens, 4)}
    return making.open()


def _check(parts: dict[str, list[Record]], split: Split) -> None:
    """Raise ``UserError`` for an empty part: with few groups, chance may give one nothing."""
    total = sum(map(len, parts.values()))
    for part, records in parts.items():
        if records:
            continue
        share = {"test": split.test, "validation": split.validation}.get(part, 1 - split.test - split.validation)
        cure = f"add data, {f'raise data.split.{part}' if part != 'train' else 'lower data.split.test'}, or try another seed"
        raise UserError(f"the {part} part got none of the {total} records (its share is {share:.1%} of the groups)", cure=cure)


def _learn(records: Sequence[Record], name: str, vocabulary: int) -> Tokenizer:
    """A tokenizer from the train part alone: the others must stay unseen."""

    def texts() -> Iterator[str]:
        for record in records:
            yield record.fields[name]
            work.advance(1)

    with task("learning tokens", total=len(records), unit="records") as work:
        return train_tokenizer(texts(), vocabulary)


def _documents(tokenizer: Tokenizer, records: Sequence[Record], name: str) -> Iterator[Document]:
    texts = (record.fields[name] for record in records)
    for record, ids in zip(records, encode_all(tokenizer, texts), strict=True):
        yield Document(record.id, record.source, [*ids, END_ID], len(record.fields[name].encode("utf-8")))
