"""Texts and pairs as ids: what is learned, what comes back, how they are changed in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer

from treadle.core.errors import UserError
from treadle.data.columns import Column
from treadle.data.fields.base import BadValue
from treadle.data.fields.text import PairField, TextField
from treadle.data.tokenizer import UNKNOWN_ID, decode, make_tokenizer, open_tokenizer
from treadle.spec.inputs import Pair, Text
from treadle.spec.inputs import Tokenizer as TokenizerSpec

TEXTS = ["The cat sat on the mat.", "A dog ran; the cat slept.", "酒店很好，房间干净", "la maison était là"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "dog", "ran", "##s", "."]


def text_field(values: list[str], **given: object) -> TextField:
    made = TextField("note", Text.model_validate(given), ("note",))
    made.fit(values)
    return made


def pair_field(values: list[tuple[str, str]], folder: Path = Path(), **given: object) -> PairField:
    made = PairField("both", Pair.model_validate({"columns": ["a", "b"], **given}), ("a", "b"))
    made.find(folder)
    made.fit(values)
    return made


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with the vocab.txt of a very small BERT."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


def rows(column: Column) -> list[list[int]]:
    assert column.starts is not None
    return [column.values[a:b].tolist() for a, b in zip(column.starts, column.starts[1:], strict=False)]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.sampled_from([{"bpe": 300}, {"words": 9}, {"characters": 9}]))
@settings(deadline=None, max_examples=60)
def test_a_restored_field_encodes_the_same(values: list[str], tokenizer: dict[str, int]) -> None:
    values = [value.encode("utf-8", "ignore").decode() for value in values]
    field = text_field(TEXTS, tokenizer=tokenizer, context=8)
    again = TextField("note", field.settings, ("note",))
    again.restore(json.loads(json.dumps(field.state())))
    column, other = field.encode(values), again.encode(values)
    assert rows(column) == rows(other)
    assert again.layout == field.layout
    assert all(1 <= len(row) <= 8 and max(row) < field.layout.vocabulary for row in rows(column))


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=60)
def test_bytes_and_known_characters_come_back_whole(value: str) -> None:
    value = value.encode("utf-8", "ignore").decode()
    for wanted in ({"bpe": 300}, {"characters": 1000}):
        tokenizer = make_tokenizer([value, *TEXTS], TokenizerSpec.model_validate(wanted))
        assert decode(tokenizer, tokenizer.encode(value, add_special_tokens=False).ids) == value


def test_a_chinese_character_is_a_word_and_so_is_a_sign() -> None:
    field = text_field(TEXTS, tokenizer={"words": 100})
    pieces = [[field.tokenizer.id_to_token(id) for id in row] for row in rows(field.encode(["房间很好，été!", "the mat."]))]
    assert pieces == [["房", "间", "很", "好", "，", "<|unknown|>", "<|unknown|>"], ["the", "mat", "."]]


def test_the_most_frequent_words_are_known_and_the_others_are_one() -> None:
    field = text_field(["b b b a a c"], tokenizer={"words": 4})
    assert rows(field.encode(["a b c d", ""])) == [[3, 2, UNKNOWN_ID, UNKNOWN_ID], [0]]
    assert field.layout.vocabulary == 4


def test_capitals_columns_and_context_are_as_asked() -> None:
    field = TextField("note", Text(tokenizer=TokenizerSpec(words=20), lower=True, context=8), ("title", "body"))
    assert field.value({"title": "The CAT", "body": None}) == "the cat"
    assert field.value({"title": "The CAT", "body": "sat"}) == "the cat sat"
    field.fit(["a b"])
    assert rows(field.encode(["a b " * 9])) == [[2, 3] * 4]
    with pytest.raises(BadValue, match="not text"):
        field.parse("\ud800")


def test_a_pair_marks_which_text_each_token_stands_in() -> None:
    field = pair_field([("a b", "c")], tokenizer={"words": 10}, context=8)
    (row,) = rows(field.encode([("a b", "c d")]))
    assert row == [[2, 0], [3, 0], [4, 1], [UNKNOWN_ID, 1]]
    assert rows(field.encode([("", "a")])) == [[[0, 0], [2, 1]]]
    assert field.layout.length == 16


def test_a_berts_tokenizer_sets_its_own_marks(bert: Path) -> None:
    field = pair_field([], bert, tokenizer={"file": "vocab.txt"}, context=8)
    reference = BertWordPieceTokenizer(str(bert / "vocab.txt"), lowercase=True).encode("The cats", "dog ran [SEP]")
    (row,) = rows(field.encode([("The cats", "dog ran")]))
    assert row == [[2, 0], [5, 0], [6, 0], [10, 0], [3, 0], [8, 1], [9, 1], [3, 1]]
    assert [token for token, _ in row] == reference.ids[:7] + reference.ids[-1:]
    typed = rows(field.encode([("cat", "[SEP]")]))[0]
    assert [token for token, _ in typed].count(3) == 2, "what a user writes never becomes a mark"
    assert field.layout.length == 2 * 8 + 3
    one = TextField("note", Text(tokenizer=TokenizerSpec(file="vocab.txt"), context=8), ("note",))
    one.find(bert)
    one.fit([])
    assert rows(one.encode(["the " * 30, ""])) == [[2, *[5] * 6, 3], [2, 3]]


def test_a_tokenizer_is_opened_as_it_is_but_for_padding_and_cuts(bert: Path) -> None:
    made = open_tokenizer(bert)
    made.enable_padding(length=50)
    made.enable_truncation(3)
    made.save(str(bert / "tokenizer.json"))
    assert open_tokenizer(bert).encode("the cat sat on").ids == [2, 5, 6, 7, 1, 3]
    assert isinstance(open_tokenizer(bert / "tokenizer.json"), Tokenizer)


def test_a_tokenizer_that_is_not_there_is_named(bert: Path) -> None:
    def find(file: str) -> None:
        TextField("note", Text(tokenizer=TokenizerSpec(file=file)), ("note",)).find(bert)

    find(str(bert / "vocab.txt"))
    for file, said in (
        ("other.json", "is not there"), ("{package:no_such_package}/x", "not installed"),
        ("{package:numpy}/no.json", "is not there"), ("{stdlib}/x", "not understood"),
    ):
        with pytest.raises(UserError, match=said):
            find(file)
    (bert / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer"):
        find("bad.json")


def test_a_path_into_a_package_is_found_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lexicon_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('loaded')")
    (package / "vocab.txt").write_text("\n".join(VOCABULARY))
    monkeypatch.syspath_prepend(tmp_path)
    field = TextField("note", Text(tokenizer=TokenizerSpec(file="{package:lexicon_of_tests}/vocab.txt")), ("note",))
    field.find(Path("elsewhere"))
    field.fit([])
    assert rows(field.encode(["cat"])) == [[2, 6, 3]]


WORDS = [f"w{number}" for number in range(50)]


def changed(field: TextField, count: int, seed: int = 3, numbers: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    change = field.change(seed)
    assert change is not None
    values, lengths = field.encode([" ".join(WORDS)] * count).rows(np.arange(count))
    found, left = change(values, lengths, np.arange(count) if numbers is None else numbers)
    assert left is not None
    return found, left


def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    assert text_field(TEXTS).change(0) is None


def test_dropped_tokens_are_the_share_that_was_asked_for_and_order_stays() -> None:
    field = text_field([" ".join(WORDS)], tokenizer={"words": 60}, augment={"drop": 0.3})
    found, lengths = changed(field, 400)
    assert lengths.mean() / 50 == pytest.approx(0.7, abs=0.01)
    whole = rows(field.encode([" ".join(WORDS)]))[0]
    for row, length in zip(found, lengths, strict=True):
        kept = [whole.index(id) for id in row[:length]]
        assert kept == sorted(set(kept))


def test_replaced_tokens_follow_the_frequencies_of_the_train_part() -> None:
    train = [" ".join(WORDS), "w0 " * 150]
    field = text_field(train, tokenizer={"words": 60}, augment={"back_off": 0.5})
    again = TextField("note", field.settings, ("note",))
    again.restore(json.loads(json.dumps(field.state())))
    found, lengths = changed(again, 600)
    assert (lengths == 50).all()
    own = np.array(rows(field.encode([" ".join(WORDS)]))[0])
    swapped = found != own
    assert swapped.mean() == pytest.approx(0.5, abs=0.02)
    counts = Counter(found[swapped].tolist())
    common = field.tokenizer.token_to_id("w0")
    assert counts[common] / swapped.sum() == pytest.approx(0.75, abs=0.02)  # 151 of 200
    assert all(counts[id] > 0 for id in own)


@given(st.integers(0, 99), st.permutations(range(6)))
@settings(deadline=None, max_examples=30)
def test_a_change_follows_from_seed_and_number_alone(seed: int, order: list[int]) -> None:
    field = text_field([" ".join(WORDS)], tokenizer={"words": 60}, augment={"drop": 0.4, "back_off": 0.2})
    numbers = np.array(order)
    found, lengths = changed(field, 6, seed)
    other, left = changed(field, 6, seed, numbers)
    assert (left == lengths[numbers]).all()
    width = min(found.shape[1], other.shape[1])
    assert (other[:, :width] == found[numbers][:, :width]).all()
    assert len({tuple(row) for row in found}) > 1


def test_a_word_of_each_text_and_all_marks_stay(bert: Path) -> None:
    field = pair_field([], bert, tokenizer={"file": "vocab.txt"}, augment={"drop": 0.99})
    change = field.change(0)
    assert change is not None
    values, lengths = field.encode([("the cat sat", "dog ran the cat")] * 50).rows(np.arange(50))
    found, left = change(values, lengths, np.arange(50))
    for row, length in zip(found, left, strict=True):
        tokens, texts = row[:length].T
        assert (tokens[0], tokens[-1], list(tokens).count(3)) == (2, 3, 2)
        assert ((texts == 0).sum(), (texts == 1).sum()) >= (3, 2)
