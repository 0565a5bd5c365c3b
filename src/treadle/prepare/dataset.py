"""Split and tokenise: a corpus -> a dataset of memory-mapped shards with the tokenizer learned on its train part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from treadle.core.errors import UserError
from treadle.core.paths import find_path, text_digest
from treadle.core.progress import say, task
from treadle.core.project import Project
from treadle.data.augment import contact_sheet
from treadle.data.chance import point_of
from treadle.data.columns import Column, load_column
from treadle.data.fields.events import EventsField
from treadle.data.fields.text import TextField
from treadle.data.parts import write_part
from treadle.data.record import Record, read_records
from treadle.data.schema import Schema
from treadle.data.shards import END_ID, PARTS, Document, write_shard
from treadle.data.tokenizer import encode_all, load_tokenizer, make_tokenizer, open_tokenizer
from treadle.prepare.corpus import RECORDS
from treadle.prepare.folds import fold_parts
from treadle.spec.data import Split
from treadle.spec.inputs import Text
from treadle.store.artifacts import Artifact, Store
from treadle.store.start import open_start

VERSION = 3
"""Raise it when the same corpus and settings give another dataset."""

TOKENIZER = "tokenizer.json"
_SHEET_ROWS = 8


def part_of(group: str, seed: int, split: Split) -> str:
    """The part that ``group`` belongs to: by its name and the seed alone, so that it stays there whatever is added later."""
    point = point_of(group, seed)
    if point < split.test:
        return "test"
    return "validation" if point < split.test + split.validation else "train"


def make_dataset(project: Project, store: Store, corpus: Artifact) -> Artifact:
    """The dataset of ``corpus`` under the project's split and vocabulary; the one in the store where nothing has changed.

    Raises ``UserError`` where a part would be empty.
    """
    if not project.spec.model.predicts_text:
        return make_table(project, store, corpus)
    name, text = next(iter(project.spec.model.inputs)), project.spec.model.text
    split, seed = project.spec.data.split, project.spec.seed
    mask = project.spec.model.masks
    config = {
        "split": split.model_dump(), "seed": seed, "tokenizer": text.tokenizer.model_dump(), "field": name, "lower": text.lower,
        "mask": mask,
    }
    making = store.making("dataset", [corpus.id], config, VERSION, seed)
    if cached := making.cached():
        return cached
    parts = split_records(read_records(corpus.path / RECORDS), seed, split)
    with making.draft() as draft:
        tokenizer = _learn(parts["train"], name, text, mask)
        tokenizer.save(str(draft.path / TOKENIZER), pretty=False)
        counts = {}
        with task("encoding", total=sum(map(len, parts.values())), unit="records") as work:
            for part, records in parts.items():
                counts[part] = write_shard(draft.path, part, _documents(tokenizer, records, name))
                work.advance(len(records), part)
        tokens, size = (sum(count[of] for count in counts.values()) for of in ("tokens", "bytes"))
        draft.counts |= {"parts": counts, "vocabulary": tokenizer.get_vocab_size(), "bytes_per_token": round(size / tokens, 4)}
    return making.open()


def split_records(records: Iterable[Record], seed: int, split: Split) -> dict[str, list[Record]]:
    """Each record in the part that its source gives it, or that its group falls into. Where sources give parts but none for
    validation, it is drawn from the train part. Raises ``UserError`` for an empty part."""
    records = list(records)
    given = {record.meta.get("part") for record in records} - {None}
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        part = record.meta.get("part")
        fallen = part_of(record.group, seed, split)
        if part == "train" and "validation" not in given:
            part = "validation" if part_of(record.group, seed, split.model_copy(update={"test": 0.0})) == "validation" else "train"
        parts[part or fallen].append(record)
    _check(parts, split)
    return parts


def _check(parts: dict[str, list[Record]], split: Split) -> None:
    """Raise ``UserError`` for an empty part: with few groups, chance may give one nothing."""
    total, groups = sum(map(len, parts.values())), len({record.group for records in parts.values() for record in records})
    for part, records in parts.items():
        if records:
            continue
        share = {"test": split.test, "validation": split.validation}.get(part, 1 - split.test - split.validation)
        message = f"the {part} part got none of the {total} records (its share is {share:.1%} of the groups)"
        cure = f"add data, {f'raise data.split.{part}' if part != 'train' else 'lower data.split.test'}, or try another seed"
        if groups < total / 2:
            message += f": they are of {groups} group{'s' * (groups != 1)} only, and records that are alike are one group"
            cure = "name a column whose values tell the cases apart, such as their number, in data.split.by; or " + cure
        raise UserError(message, cure=cure)


def _learn(records: Sequence[Record], name: str, text: Text, mask: bool) -> Tokenizer:
    """A tokenizer from the train part alone: the others must stay unseen."""

    def texts() -> Iterator[str]:
        for record in records:
            yield record.fields[name]
            work.advance(1)

    with task("learning tokens", total=len(records), unit="records") as work:
        return make_tokenizer(texts(), text.tokenizer, text.lower, mask)


def _documents(tokenizer: Tokenizer, records: Sequence[Record], name: str) -> Iterator[Document]:
    texts = (record.fields[name] for record in records)
    for record, ids in zip(records, encode_all(tokenizer, texts), strict=True):
        yield Document(record.id, record.source, [*ids, END_ID], len(record.fields[name].encode("utf-8")))


# -- records with answers ---------------------------------------------------------------------------------------------


def make_table(project: Project, store: Store, corpus: Artifact, fold: int | None = None) -> Artifact:
    """The dataset of records: every field fitted on the train part and encoded, a column per input and head. With ``fold`` its
    parts are those of that fold of ``evaluate.folds``, whatever parts the sources give.

    Raises ``UserError`` where a part would be empty, or an input gives the answer away.
    """
    split, seed, model = project.spec.data.split, project.spec.seed, project.spec.model
    config: dict[str, Any] = {
        "split": split.model_dump(), "seed": seed,
        "inputs": {name: given.model_dump(mode="json") for name, given in model.inputs.items()},
        "heads": {name: head.model_dump(mode="json") for name, head in model.heads.items()},
    }
    for name, given in model.inputs.items():
        if file := getattr(getattr(given.settings, "tokenizer", None), "file", None):  # its content counts, whatever its path
            config["inputs"][name][given.kind]["tokenizer"] = text_digest(open_tokenizer(find_path(file, project.folder)).to_str())
    evaluate = project.spec.evaluate
    if fold is not None:
        config |= {"fold": fold, "folds": evaluate.folds, "time": evaluate.time}
    if start := open_start(project):
        config["start_from"] = start.content
    making = store.making("dataset", [corpus.id], config, VERSION, seed)
    if cached := making.cached():
        return cached
    schema = Schema(model)
    for field in schema.inputs.values():
        if start and isinstance(field, TextField):
            field.given = load_tokenizer(start.tokenizer)
    read = list(read_records(corpus.path / RECORDS))
    if fold is not None:
        assert evaluate.folds is not None
        parts = fold_parts(read, evaluate.folds, fold, seed, split.validation, model.balanced_by, evaluate.time)
    else:
        parts = split_last(read, schema) if split.by == "last" else split_records(read, seed, split)
    notes = look_over(schema, parts["train"])
    schema.fit(parts["train"], project.folder)
    for target in schema.targets.values():
        notes += target.remarks([target.value(record.fields) for record in parts["train"]])
    for note in notes if fold is None else ():
        say(f"note: {note}")
    with making.draft() as draft:
        schema.save(draft.path)
        counts = {}
        with task("encoding", total=sum(map(len, parts.values())), unit="records") as work:
            for part, records in parts.items():
                count, inputs = write_part(draft.path, part, schema, records, training=part == "train")
                if part == "train":
                    _write_sheets(draft.path, schema, inputs, seed)
                counts[part] = {"records": count}
                work.advance(len(records), part)
        draft.counts |= {"kind": "records", "parts": counts, "notes": notes}
        draft.counts |= {} if fold is None else {"fold": {"number": fold + 1, "of": evaluate.folds}}
    return making.open()


def split_last(records: Iterable[Record], schema: Schema) -> dict[str, list[Record]]:
    """Each history by time: its last event is asked for in the test, the one before in validation, each with all that came before;
    the earlier ones are trained on. Records of single events fall into the part of their event. Raises ``UserError`` for an empty
    part, or where a source says the part of its records."""
    histories = [field.columns[0] for field in schema.inputs.values() if isinstance(field, EventsField)]
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        if "part" in record.meta:
            cure = "remove 'part:' from the source, or name another field in data.split.by"
            raise UserError(f"{record.source} is given to the {record.meta['part']} part, but 'by: last' splits it", cure=cure)
        if "left" in record.meta:
            parts[{0: "test", 1: "validation"}.get(record.meta["left"], "train")].append(record)
            continue
        for part, left in (("test", 0), ("validation", 1), ("train", 2)):
            cut = {column: (events := record.fields[column] or [])[: len(events) - left] for column in histories}
            if all(cut.values()):
                parts[part].append(record.with_fields({**record.fields, **cut}))
    for part, found in parts.items():
        if not found:
            cure = "give more data: three events of a user at least"
            raise UserError(f"no history is long enough for the {part} part", cure=cure)
    return parts


def _write_sheets(folder: Path, schema: Schema, columns: Mapping[str, Column], seed: int) -> None:
    """What the changes in training make of a few pictures, and of the boxes in them, to be looked at."""
    drawn = next((pair for pair in schema.moves(seed).items()), None)
    for name, change in schema.changes(seed).items():
        if schema.inputs[name].layout.kind == "image":
            every = columns[name].values
            some = np.unique(np.linspace(0, len(every) - 1, _SHEET_ROWS, dtype=np.int64))  # neighbours are often of one class
            boxes, move = (load_column(folder, "train", f"heads.{drawn[0]}").rows(some)[0], drawn[1]) if drawn else (None, None)
            sheet = contact_sheet(every[some], change, boxes=boxes, move=move)
            (folder / f"augmented.{name}.png").write_bytes(sheet)


def look_over(schema: Schema, records: Sequence[Record]) -> list[str]:
    """What a person who knows the field would say of the train part. Raises ``UserError`` where an input gives the answer away."""
    notes = []
    values = {column: [record.fields[column] for record in records] for column in schema.by_column}
    plain = {column: found for column, found in values.items() if all(isinstance(v, (str, float, bool, type(None))) for v in found)}
    inputs = [column for column in plain if column not in schema.answers]
    for column in inputs:
        if len(set(plain[column])) == 1 and len(records) > 1:
            notes.append(f"{column!r} is {str(plain[column][0])[:60]!r} in every record: it tells nothing")
    for answer in sorted(schema.answers & plain.keys()):
        counts = Counter(plain[answer])
        single = sorted(str(kind) for kind, count in counts.items() if count == 1)
        if 0 < len(single) < len(counts) <= 1000 and isinstance(plain[answer][0], str):
            notes.append(f"{answer!r}: seen once only, so hardly learned: {', '.join(single[:5])}{' ...' * (len(single) > 5)}")
        for column in inputs:
            if _gives_away(plain[column], plain[answer]):
                cure = f"leave {column!r} out of model.inputs, if it is not known before the answer is"
                message = f"{column!r} gives {answer!r} away: each is a function of the other in all {len(records)} records"
                raise UserError(message, cure=cure)
    for field in schema.inputs.values():
        notes += field.remarks([field.value(record.fields) for record in records])
    return notes


def _gives_away(column: Sequence[Any], answer: Sequence[Any]) -> bool:
    """Whether two columns say the same in other words: one name for each name, or a straight line between numbers."""
    if len(column) < 20:
        return False
    both = [(a, b) for a, b in zip(column, answer, strict=True) if isinstance(a, float) and isinstance(b, float)]
    if len(both) >= 0.9 * len(column):
        pairs = np.array(both)
        return bool((pairs.std(0) > 0).all() and abs(np.corrcoef(pairs.T)[0, 1]) > 1 - 1e-9)
    kinds = len(set(column))
    return 2 <= kinds <= len(column) // 4 and kinds == len(set(answer)) == len(set(zip(column, answer, strict=True)))
