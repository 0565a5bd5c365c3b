"""What is hidden is a pure function of seed and example; the shares are those of the paper; whole words stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.batch import IGNORE
from treadle.data.loader import Windows
from treadle.data.masking import Masked, Masker, masked_documents
from treadle.data.shards import END_ID, Document, Shard, write_shard
from treadle.data.tokenizer import MASK, encode_all, make_tokenizer
from treadle.spec.heads import MaskedToken
from treadle.spec.inputs import Tokenizer as Spec

TEXTS = ["Unbelievable stories, told by the été; wonderfully retold in 1984.\n" * 3, "another short story\n"]
BPE = make_tokenizer(TEXTS, Spec(bpe=280), mask=True)  # so few merges that words fall into several tokens
WORDS = make_tokenizer(TEXTS, Spec(words=40), mask=True)
SIZE = BPE.get_vocab_size()
ROWS = st.lists(st.lists(st.integers(0, SIZE - 2), min_size=24, max_size=24), min_size=1, max_size=3).map(np.array)


@given(ROWS, st.integers(0, 5), st.integers(0, 10**6), st.sampled_from([0.0, 0.15, 0.3, 1.0]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_tokens(tokens: np.ndarray, seed: int, first: int, share: float, whole: bool) -> None:
    masker = Masker(BPE, MaskedToken(mask=share, whole_words=whole), seed)
    numbers = np.arange(first, first + len(tokens))
    read, wanted = masker(tokens, numbers)
    chosen = wanted != IGNORE
    assert (wanted[chosen] == tokens[chosen]).all()
    assert (read[~chosen] == tokens[~chosen]).all()
    assert END_ID not in wanted
    assert (tokens[tokens == END_ID] == read[tokens == END_ID]).all()
    for row, number in enumerate(numbers):
        alone = masker(tokens[row : row + 1], np.array([number]))
        assert (alone[0][0] == read[row]).all()
        assert (alone[1][0] == wanted[row]).all()
        words = masker.words(tokens[row])
        usable = [w for w in range(words[-1] + 1) if END_ID not in tokens[row][words == w]]
        within = sum(int((words == w).sum()) for w in usable)
        count = int(chosen[row].sum())
        assert all(chosen[row][words == w].all() or not chosen[row][words == w].any() for w in usable)
        assert (count > 0) == bool(usable)
        assert count <= max(1, round(share * within)) or len(set(words[chosen[row]])) == 1


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_the_shares_are_those_of_the_paper(share: float) -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(1, SIZE - 1, (400, 100))
    read, wanted = Masker(BPE, MaskedToken(mask=share, whole_words=False), 3)(tokens, np.arange(400))
    chosen = wanted != IGNORE
    assert chosen.mean() == pytest.approx(share, abs=1e-9)
    hidden = (read == BPE.token_to_id(MASK))[chosen].mean()
    left = (read == tokens)[chosen].mean()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert left == pytest.approx(0.1, abs=0.02)
    replaced = read[chosen & (read != tokens) & (read != SIZE - 1)]
    assert len(np.unique(replaced)) > 0.8 * SIZE


def test_whole_words_of_real_text() -> None:
    (ids,) = encode_all(BPE, ["Unbelievable été, 1984"])
    masker = Masker(BPE, MaskedToken(), 0)
    words = masker.words(np.array(ids))
    assert len(ids) > 6
    spelled = ["".join(BPE.decode([i for i, w in zip(ids, words, strict=True) if w == word])) for word in range(words[-1] + 1)]
    assert spelled[:3] == ["Unbelievable", " été", ","]
    apart = Masker(BPE, MaskedToken(whole_words=False), 0).words(np.array(ids))
    assert apart.tolist() == list(range(len(ids)))
    (ids,) = encode_all(WORDS, ["another short story"])
    assert Masker(WORDS, MaskedToken(), 0).words(np.array(ids)).tolist() == [0, 1, 2]


def test_epochs_hide_others_and_pieces_the_same(tmp_path) -> None:
    rows = [[*ids, END_ID] for ids in encode_all(BPE, TEXTS)]
    write_shard(tmp_path, "train", [Document(str(n), "a", ids, 1) for n, ids in enumerate(rows)])
    shard = Shard(tmp_path, "train")
    masker = Masker(BPE, MaskedToken(), 7)
    masked = Masked(Windows(shard, 16, 7, "text", "hidden"), masker)
    both = masked.batch_at(0, masked.windows.windows), masked.batch_at(1, masked.windows.windows)
    assert not (both[0].targets["hidden"] == both[1].targets["hidden"]).all()
    parts = [masked.rows(np.array([n])) for n in range(3)]
    assert all((part.inputs["text"][0] == both[0].inputs["text"][n]).all() for n, part in enumerate(parts))
    first, again = (list(masked_documents(shard, np.array([1, 0]), masker, 16, "text", "hidden")) for _ in range(2))
    assert [place for place, _ in first] == sorted(place for place, _ in first)
    for (_, one), (_, two) in zip(first, again, strict=True):
        assert (one.inputs["text"] == two.inputs["text"]).all()
    found = [
        np.where(batch.targets["hidden"] == IGNORE, batch.inputs["text"], batch.targets["hidden"])[0] for place, batch in first
        if place == 0
    ]
    assert np.concatenate(found).tolist()[: len(rows[1])] == rows[1]
