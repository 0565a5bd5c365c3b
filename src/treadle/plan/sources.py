"""How much data there is, by looking at names and sizes of files alone. Imports no torch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from treadle.core.project import Project
from treadle.data.sources.collect import place_of
from treadle.data.sources.files import count_files
from treadle.data.sources.table import table_files
from treadle.spec.data import FilesSource, Split, TableSource, source_name
from treadle.spec.inputs import Tokenizer
from treadle.store.artifacts import Store

KEPT_SHARE = 0.9
"""Share of the source bytes that cleaning keeps, where no earlier corpus of the same sources says."""

_BYTES_PER_TOKEN = [
    (257, 1.0), (300, 1.5), (512, 2.1), (1024, 2.6), (2048, 3.1), (4096, 3.5), (8192, 3.9), (16_384, 4.2), (65_536, 4.6),
]
"""Vocabulary of byte-level BPE -> bytes per token, measured on the Python standard library; English prose is within 20% of it."""
_BYTES_PER_WORD = 4.5
"""Bytes of text for each word or sign, measured on tinyshakespeare and the Gutenberg books."""


@dataclass(frozen=True)
class DataSize:
    """What the sources hold, and what becomes of it."""

    files: int
    bytes: int
    """Of the files that are read: neither excluded nor too long."""
    text: int
    """Bytes that cleaning keeps."""
    train: int
    """Tokens, as are the two below."""
    validation: int
    test: int
    bytes_per_token: float
    source: str
    """Where the shares and the bytes per token are known from."""

    @property
    def tokens(self) -> int:
        return self.train + self.validation + self.test


def measure_data(project: Project, store: Store) -> DataSize:
    """Size of the project's data. Raises ``SourceError`` where a source names nothing."""
    files, sizes = _count_files(project)
    size, tokenizer = sum(sizes.values()), project.spec.model.text.tokenizer
    earlier = _earlier(project, store)
    if earlier:
        kept, rate, parts, source = earlier
    else:
        kept, rate = KEPT_SHARE, _bytes_per_token(tokenizer)
        parts = _parts(sizes, project.spec.data.split)
        source = f"{kept:.0%} of the bytes kept, {rate:.2f} bytes per token: stated defaults for a vocabulary of {tokenizer.size}"
    text = int(size * kept)
    tokens = text / rate
    test, validation = int(tokens * parts["test"]), int(tokens * parts["validation"])
    return DataSize(files, size, text, int(tokens) - test - validation, validation, test, rate, source)


def _bytes_per_token(tokenizer: Tokenizer) -> float:
    """Of English: one of a character; of a word with the sign or space beside it."""
    return 1.0 if tokenizer.characters else _BYTES_PER_WORD if tokenizer.words else bytes_per_token(tokenizer.size)


def bytes_per_token(vocabulary: int) -> float:
    """Of byte-level BPE, interpolated in the logarithm of the vocabulary."""
    sizes = [size for size, _ in _BYTES_PER_TOKEN]
    right = min(max(bisect_left(sizes, vocabulary), 1), len(sizes) - 1)
    (low, a), (high, b) = _BYTES_PER_TOKEN[right - 1], _BYTES_PER_TOKEN[right]
    share = math.log(vocabulary / low) / math.log(high / low)
    return a + (b - a) * min(share, 1.0)


def _parts(sizes: Mapping[str | None, int], split: Split) -> dict[str, float]:
    """Shares of the test and validation parts, as the sources give them or the split does."""
    rest, train = sizes.get(None, 0), sizes.get("train", 0)
    total = max(1, sum(sizes.values()))
    watched = sizes.get("validation", 0) + split.validation * (rest + (0 if "validation" in sizes else train))
    return {"test": (sizes.get("test", 0) + split.test * rest) / total, "validation": watched / total}


def _count_files(project: Project) -> tuple[int, dict[str | None, int]]:
    """How many, and their bytes by the part that their source gives them to."""
    files, sizes = 0, dict[str | None, int]()
    for number, source in enumerate(project.spec.data.sources):
        place = place_of(project, number, None)
        if isinstance(source, FilesSource):
            count, length = count_files(source, place)
            found = count, round(length * (source.span[1] - source.span[0]))
        elif isinstance(source, TableSource):
            paths = [path for path, _ in table_files(source, place)]
            found = len(paths), sum(path.stat().st_size for path in paths)
        else:
            continue
        files += found[0]
        sizes[source.part] = sizes.get(source.part, 0) + found[1]
    return files, sizes


def _earlier(project: Project, store: Store) -> tuple[float, float, dict[str, float], str] | None:
    """Share kept, bytes per token and shares of the split from the newest dataset of the same sources and vocabulary."""
    manifests = {manifest["id"]: manifest for manifest in store.all()}
    sources = project.spec.data.sources
    unread = {"too long", *(reason for source in sources for reason in getattr(source, "exclude", ()))}
    for dataset in reversed([m for m in manifests.values() if m["kind"] == "dataset"]):
        corpus = manifests.get(dataset["parents"][0]) if dataset["parents"] else None
        if not corpus or [source["pattern"] for source in corpus["counts"]["sources"]] != list(map(source_name, sources)):
            continue
        counts, account = dataset["counts"], corpus["counts"]["account"]
        total = sum(part["tokens"] for part in counts["parts"].values())
        read = account["in"] - sum(count for reason, count in account["set_aside"].items() if reason in unread)
        if counts["vocabulary"] != project.resolved.language.vocabulary or not total or not read:
            continue
        parts = {name: part["tokens"] / total for name, part in counts["parts"].items()}
        return account["kept"] / read, counts["bytes_per_token"], parts, f"as measured in {dataset['id']}"
    return None
