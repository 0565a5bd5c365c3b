"""What fields learn comes from the train part alone: held-out records may hold anything."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.data.schema import FILE
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset
from treadle.store.artifacts import Store

SPEC = """
name: parts
data:
  sources:
    - {table: train.csv, licence: CC0-1.0, part: train}
    - {table: validation.csv, licence: CC0-1.0, part: validation}
    - {table: test.csv, licence: CC0-1.0, part: test}
model:
  inputs:
    plain: number
    robust: {number: {scale: robust, bins: 4}}
    log: {number: {scale: log}}
    rank: {number: {scale: quantile, bins: 5}}
    job: category
    day: date
    tags: set
    note: {tokenizer: {words: 50}, augment: {back_off: 10%}}
  trunk: {mlp: {width: 8, depth: 1}}
  heads: {kind: {category: {balance: true}}, yes: {binary: {balance: true}}, price: number, labels: labels}
"""
COLUMNS = ("plain", "robust", "log", "rank", "job", "day", "tags", "note", "kind", "yes", "price", "labels")


def write(path: Path, count: int, seed: int, wild: bool) -> None:
    """Rows; ``wild`` ones hold numbers, names and words that others do not."""
    draw, far, mark = random.Random(seed), 1e6 if wild else 1.0, "wild" if wild else "tame"
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(COLUMNS)
        for _ in range(count):
            numbers = [round(draw.gauss(far - 1, far), 4) for _ in range(4)]
            names = [f"{mark}{draw.randrange(3)}" for _ in range(4)]
            day = f"{1700 if wild else 2024}-0{draw.randrange(1, 10)}-01"
            kind = draw.choice("ab") if not wild else draw.choice("abcd")
            out.writerow([
                *numbers, names[0], day, f"{names[1]},x", f"{names[2]} stands here", kind, draw.choice(["no", "yes"]),
                round(draw.gauss(far, far), 3), names[3],
            ])


def learned(folder: Path, train: int, wild: bool) -> bytes:
    folder.mkdir()
    (folder / "treadle.yaml").write_text(SPEC)
    write(folder / "train.csv", 60, train, False)
    for part in ("validation", "test"):
        write(folder / f"{part}.csv", 25, 9, wild)
    project = load_project(folder)
    store = Store(project.store)
    return (make_dataset(project, store, make_corpus(project, store)).path / FILE).read_bytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_wild_held_out_values_change_nothing_that_is_learned(tmp_path: Path, seed: int):
    tame = learned(tmp_path / "tame", seed, False)
    assert learned(tmp_path / "wild", seed, True) == tame
    assert learned(tmp_path / "other", seed + 5, False) != tame


def test_few_distinct_rows_are_one_clear_error(tmp_path: Path):
    """Rows that are alike are one group: of two kinds of row one part at least stays empty."""
    (tmp_path / "treadle.yaml").write_text("""
name: alike
data: {sources: [{table: rows.csv, licence: CC0-1.0}]}
model: {inputs: {x: category}, trunk: {mlp: {width: 4, depth: 1}}, heads: {y: category}}
""")
    (tmp_path / "rows.csv").write_text("id,x,y\n" + "".join(f"{n},{'ab'[n % 2]},{'cd'[n % 2]}\n" for n in range(200)))

    def prepared(*overrides: str) -> dict[str, int]:
        project = load_project(tmp_path, overrides)
        store = Store(project.store)
        parts = make_dataset(project, store, make_corpus(project, store)).counts["parts"]
        return {part: found["records"] for part, found in parts.items()}

    with pytest.raises(UserError, match=r"got none of the 200 records .* they are of 2 groups only") as caught:
        prepared()
    assert "data.split.by" in caught.value.cure
    with pytest.raises(UserError, match="gives 'y' away"):
        prepared("data.split.by=id")  # enough groups now
