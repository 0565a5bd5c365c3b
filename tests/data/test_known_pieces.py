"""Tokenizers of words and of characters: whatever was seen in training comes back, the rest is one 'unknown'."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from treadle.data.shards import END, END_ID
from treadle.data.tokenizer import (
    MASK,
    UNKNOWN,
    UNKNOWN_ID,
    decode,
    encode_all,
    keeps_spaces,
    load_tokenizer,
    make_tokenizer,
    token_bytes,
)
from treadle.spec.inputs import Tokenizer as Spec

TEXTS = ["To be, or not to be:\nthat is\tthe question.", "我爱北京 naïve café\r\n" * 3]
CHARACTERS = make_tokenizer(TEXTS, Spec(characters=100))
WORDS = make_tokenizer(TEXTS, Spec(words=100))
SEEN = sorted(set("".join(TEXTS)))


@given(st.text(st.sampled_from(SEEN)))
@settings(deadline=None, max_examples=100)
def test_known_characters_come_back(text: str) -> None:
    (ids,) = encode_all(CHARACTERS, [text])
    assert len(ids) == len(text)
    assert decode(CHARACTERS, ids) == text
    table = token_bytes(CHARACTERS, CHARACTERS.get_vocab_size())
    assert b"".join(table[id] for id in ids).decode() == text


@pytest.mark.parametrize("tokenizer", [CHARACTERS, WORDS], ids=["characters", "words"])
def test_marks_written_in_a_text_are_text(tokenizer) -> None:
    (ids,) = encode_all(tokenizer, [f"be {END} {UNKNOWN} be"])
    assert END_ID not in ids
    assert (tokenizer.id_to_token(END_ID), tokenizer.id_to_token(UNKNOWN_ID)) == (END, UNKNOWN)


def test_only_the_most_frequent_are_known() -> None:
    few = make_tokenizer(["aaab", "bbcc d"], Spec(characters=4))
    assert few.get_vocab() == {END: 0, UNKNOWN: 1, "a": 2, "b": 3}
    assert list(encode_all(few, ["abcd"])) == [[2, 3, 1, 1]]
    assert b"".join(token_bytes(few, 4)[id] for id in (2, 1)).decode() == "a\N{REPLACEMENT CHARACTER}"


def test_a_word_is_letters_a_sign_or_a_chinese_character() -> None:
    (ids,) = encode_all(WORDS, ["to be, 我爱 unheard"])
    assert [WORDS.id_to_token(id) for id in ids] == ["to", "be", ",", "我", "爱", UNKNOWN]
    table = token_bytes(WORDS, 100)
    assert b"".join(table[id] for id in ids[:3]).decode() == " to be ,"
    assert keeps_spaces(CHARACTERS)
    assert not keeps_spaces(WORDS)


@pytest.mark.parametrize("spec", [Spec(characters=40), Spec(words=40), Spec(bpe=300)], ids=["characters", "words", "bpe"])
def test_small_letters_and_a_mask_are_settings_of_the_tokenizer(spec: Spec, tmp_path: Path) -> None:
    plain = make_tokenizer(TEXTS, spec)
    made = make_tokenizer(TEXTS, spec, lower=True, mask=True)
    made.save(str(tmp_path / "tokenizer.json"))
    made = load_tokenizer(tmp_path / "tokenizer.json")
    assert next(encode_all(made, ["TO BE"])) == next(encode_all(made, ["to be"]))
    assert next(encode_all(plain, ["TO BE"])) != next(encode_all(plain, ["to be"]))
    assert made.token_to_id(MASK) == made.get_vocab_size() - 1
    assert made.get_vocab_size() <= spec.size
    assert plain.token_to_id(MASK) is None


def test_transformers_reads_characters_alike(tmp_path: Path) -> None:
    CHARACTERS.save(str(tmp_path / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token=END)
    for text, ids in zip(TEXTS, encode_all(CHARACTERS, TEXTS), strict=True):
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
