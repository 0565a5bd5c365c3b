from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from treadle.core.errors import UserError, WorkError
from treadle.core.project import Project, load_project
from treadle.data.record import read_records
from treadle.data.shards import END_ID, PARTS, Shard
from treadle.data.steps.dedupe import jaccard, shingles
from treadle.data.tokenizer import decode, load_tokenizer, make_tokenizer
from treadle.prepare.corpus import make_corpus
from treadle.prepare.dataset import make_dataset, part_of
from treadle.spec.data import Split
from treadle.spec.inputs import Tokenizer
from treadle.store.artifacts import Artifact, Store

Make = Callable[..., tuple[Project, Store]]


def prose(seed: int, words: int = 60) -> list[str]:
    return [f"w{(seed * 7919 + i * i * 31 + i) % 997}" for i in range(words)]


def write(texts: Path, files: int = 60) -> None:
    """A third of the files near-copies of the one before."""
    for number in range(files):
        words = prose(number - (number % 3 == 2))
        (texts / f"f{number:03}.txt").write_text(" ".join(words + ["tail"] * (number % 3 == 2)) + "\n")


def prepare(project: Project, store: Store) -> Artifact:
    return make_dataset(project, store, make_corpus(project, store))


def test_shards_give_back_the_corpus(make_project: Make, texts: Path) -> None:
    write(texts)
    project, store = make_project()
    corpus = make_corpus(project, store)
    dataset = make_dataset(project, store, corpus)
    tokenizer = load_tokenizer(dataset.path / "tokenizer.json")
    records = {record.id: record for record in read_records(corpus.path / "records.parquet")}
    seen = []
    for part in PARTS:
        shard = Shard(dataset.path, part)
        assert dataset.counts["parts"][part]["documents"] == len(shard) > 0
        assert dataset.counts["parts"][part]["tokens"] == len(shard.tokens)
        for index, id in enumerate(shard.ids):
            tokens = shard.document(index).tolist()
            assert tokens[-1] == END_ID
            assert END_ID not in tokens[:-1]
            assert decode(tokenizer, tokens[:-1]) == records[id].fields["text"]
            assert shard.bytes[index] == len(records[id].fields["text"].encode())
            assert shard.sources[index] == records[id].source
            assert part == part_of(records[id].group, project.spec.seed, project.spec.data.split)
        seen += shard.ids
    assert sorted(seen) == sorted(records)
    counts = dataset.counts
    tokens, size = (sum(part[of] for part in counts["parts"].values()) for of in ("tokens", "bytes"))
    assert counts["bytes_per_token"] == pytest.approx(size / tokens, abs=1e-4)
    assert counts["vocabulary"] == tokenizer.get_vocab_size() <= 300
    assert dataset.parents == (corpus.id,)


def test_tokenizer_learns_from_the_train_part_alone(make_project: Make, texts: Path) -> None:
    write(texts)
    project, store = make_project()
    corpus = make_corpus(project, store)
    dataset = make_dataset(project, store, corpus)
    records = list(read_records(corpus.path / "records.parquet"))
    train = [r.fields["text"] for r in records if part_of(r.group, 0, project.spec.data.split) == "train"]
    expected = make_tokenizer(train, Tokenizer(bpe=300))
    assert load_tokenizer(dataset.path / "tokenizer.json").get_vocab() == expected.get_vocab()
    assert expected.get_vocab() != make_tokenizer([r.fields["text"] for r in records], Tokenizer(bpe=300)).get_vocab()


@pytest.mark.parametrize("dedupe", ["near", "exact", "none"])
@pytest.mark.parametrize("by", ["file", "folder"])
def test_no_near_duplicate_straddles_two_parts(make_project: Make, texts: Path, dedupe: str, by: str) -> None:
    write(texts)
    for number in range(60):  # each folder holds copies of files of others
        (texts / f"d{number}").mkdir()
        (texts / f"d{number}/own.txt").write_text(" ".join(prose(500 + number)))
        if number % 4 == 0:
            (texts / f"d{number}/copy.txt").write_text(" ".join([*prose(500 + number // 2), "end"]))
    project, store = make_project(f"data.clean.dedupe={dedupe}", f"data.split.by={by}")
    corpus = make_corpus(project, store)
    parts = [
        (part_of(record.group, 0, project.spec.data.split), shingles(record.fields["text"]))
        for record in read_records(corpus.path / "records.parquet")
    ]
    least = project.spec.data.clean.similarity
    pairs = [(one, two) for n, (one, a) in enumerate(parts) for two, b in parts[:n] if jaccard(a, b) >= least]
    assert (len(pairs) > 20) == (dedupe != "near")
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@given(st.lists(st.text(), min_size=1, unique=True), st.integers(0, 99), st.floats(0, 0.5), st.floats(0, 0.4))
@settings(deadline=None)
def test_a_groups_part_depends_on_its_name_and_the_seed_alone(groups: list[str], seed: int, test: float, validation: float) -> None:
    split = Split(test=test, validation=validation)
    parts = {group: part_of(group, seed, split) for group in groups}
    assert parts == {group: part_of(group, seed, split) for group in reversed(groups)}
    wider = Split(test=min(0.55, test * 1.1), validation=validation)
    assert all(part_of(group, seed, wider) == "test" for group, part in parts.items() if part == "test")


def test_shares_are_those_that_were_asked_for() -> None:
    parts = [part_of(f"file{number}", 3, Split(test=0.1, validation=0.05)) for number in range(20_000)]
    assert parts.count("test") == pytest.approx(2000, abs=150)
    assert parts.count("validation") == pytest.approx(1000, abs=110)
    other = [part_of(f"file{number}", 4, Split(test=0.1, validation=0.05)) for number in range(20_000)]
    assert sum(one == two == "test" for one, two in zip(parts, other, strict=True)) == pytest.approx(200, abs=60)


def test_added_files_move_none(make_project: Make, texts: Path) -> None:
    def parts(dataset: Artifact) -> dict[str, str]:
        return {source: part for part in PARTS for source in Shard(dataset.path, part).sources}

    write(texts, 60)
    before = parts(prepare(*make_project()))
    write(texts, 90)
    after = parts(prepare(*make_project()))
    assert len(after) > len(before)
    assert {source: after[source] for source in before} == before


def test_second_time_it_is_there_already(make_project: Make, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(texts)
    first = prepare(*make_project())
    monkeypatch.setattr("treadle.prepare.dataset.make_tokenizer", None)
    assert prepare(*make_project()).manifest == first.manifest


def test_two_preparations_are_the_same_to_the_byte(make_project: Make, texts: Path, tmp_path: Path) -> None:
    write(texts)
    project, store = make_project()
    one, two = prepare(project, store), prepare(project, Store(tmp_path / "other"))
    assert one.id == two.id
    assert one.manifest["files"] == two.manifest["files"]


@pytest.mark.parametrize("override", ["seed=1", "data.split.test=0.3", "model.inputs.text.tokenizer.bpe=280"])
def test_a_setting_makes_another_dataset_of_the_same_corpus(make_project: Make, texts: Path, override: str) -> None:
    write(texts)
    first, other = prepare(*make_project()), prepare(*make_project(override))
    assert first.id != other.id
    assert first.parents == other.parents


def test_an_empty_part_is_an_error_with_the_cure(make_project: Make, texts: Path) -> None:
    write(texts, 3)
    with pytest.raises(UserError, match=r"part got none of the 2 records") as caught:
        prepare(*make_project())
    assert "seed" in caught.value.cure


def test_a_write_that_fails_leaves_nothing(make_project: Make, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(texts)
    project, store = make_project()
    corpus = make_corpus(project, store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("treadle.prepare.dataset.write_shard", full)
    with pytest.raises(WorkError, match="is full"):
        make_dataset(project, store, corpus)
    monkeypatch.undo()
    assert [manifest["kind"] for manifest in store.all()] == ["corpus"]
    assert make_dataset(project, store, corpus).counts["vocabulary"] > 0


def test_the_sheet_of_changes_shows_pictures_from_all_over_the_train_part(tmp_path: Path):
    for grey in range(40):
        folder = tmp_path / "pictures" / ("dark" if grey < 20 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * grey).save(folder / f"{grey:02}.png")
    (tmp_path / "treadle.yaml").write_text(
        "name: sheet\n"
        "data:\n"
        "  sources: [{media: pictures, into: photo, folder_is: kind, licence: CC0-1.0}]\n"
        "  split: {validation: 20%, test: 20%}\n"
        "model:\n"
        "  inputs: {photo: {image: {size: 8, grey: true, augment: {flip: true}}}}\n"
        "  trunk: {mlp: {width: 8, depth: 1}}\n"
        "  heads: {kind: category}\n"
    )
    project = load_project(tmp_path)
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    with Image.open(dataset.path / "augmented.photo.png") as image:
        sheet = np.asarray(image)
    every = np.load(dataset.path / "train.inputs.photo.npy")[:, 0, 0, 0]
    side = len(sheet) // 8
    shown = sheet[side // 4 :: side, side // 4]
    assert [shown[0], shown[-1]] == [every[0], every[-1]]
    assert len(set(shown.tolist())) == 8
