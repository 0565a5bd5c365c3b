import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from treadle.core.errors import ArtifactError, WorkError
from treadle.data.shards import END, END_ID
from treadle.data.tokenizer import decode, encode_all, load_tokenizer, train_tokenizer

CODE = ["def add(a, b):\n    if a:\n        return a + b\n\n    return 12345678\n"] * 20
CODE += ["class Point:\n\tx = 'né'\r\n    # été 漢字\n"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CODE, 400)


@given(st.text() | st.lists(st.sampled_from(["def", " ", "\n", "\t", "    ", END, "<|", "é", "👩‍🚀", "123456", "_x"])).map("".join))
@settings(deadline=None, max_examples=300)
def test_any_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = next(encode_all(tokenizer, [text]))
    assert decode(tokenizer, ids) == text
    assert END_ID not in ids


def test_end_mark_is_the_first_id_and_only_special(tokenizer: Tokenizer) -> None:
    specials = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    assert specials == [END_ID]
    assert tokenizer.id_to_token(END_ID) == END


def test_indentation_is_one_token_and_digits_come_in_threes(tokenizer: Tokenizer) -> None:
    ids = next(encode_all(tokenizer, ["def add(a):\n        return 12345678"]))
    pieces = [decode(tokenizer, [id]) for id in ids]
    assert "\n        " in pieces
    assert [p for p in pieces if p.isdigit() and len(p) > 3] == []
    assert pieces[0] == "def"  # no space is put before a text


def test_order_and_batches_do_not_matter_to_encoding(tokenizer: Tokenizer) -> None:
    texts = [f"def f{i}(x):\n    return {i}\n" for i in range(200)]
    together = list(encode_all(tokenizer, texts))
    assert together == [next(encode_all(tokenizer, [text])) for text in texts]
    assert list(encode_all(tokenizer, [])) == []


def test_another_process_learns_the_same(tokenizer: Tokenizer) -> None:
    script = (
        "import sys, json; from treadle.data.tokenizer import train_tokenizer;"
        "print(train_tokenizer(json.load(sys.stdin), 400).to_str())"
    )
    made = subprocess.run([sys.executable, "-c", script], input=json.dumps(CODE), capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == json.loads(tokenizer.to_str())


def test_vocabulary_is_bounded_by_the_request_and_by_the_text() -> None:
    assert train_tokenizer(CODE, 300).get_vocab_size() == 300
    assert train_tokenizer(["ab"], 300).get_vocab_size() == 257


def test_opens_in_transformers_with_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*CODE, "  odd\r\n \t x\n\n\n", "naïve 漢字 👩‍🚀 1234567"]:
        ids = next(encode_all(tokenizer, [text]))
        assert fast(text).input_ids == ids
        assert auto(text).input_ids == ids
        assert auto.decode(ids) == text


def test_saved_and_loaded_it_still_takes_the_end_mark_for_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert list(encode_all(again, [f"a{END}b"])) == list(encode_all(tokenizer, [f"a{END}b"]))
    assert again.encode(f"a{END}b").ids.count(END_ID) == 0


def test_damaged_or_missing_files_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(WorkError, match="no tokenizer at"):
        load_tokenizer(file)
    file.write_text(tokenizer.to_str()[:500])
    with pytest.raises(ArtifactError, match="is damaged"):
        load_tokenizer(file)
    file.write_text(tokenizer.to_str().replace(END, "<other>"))
    with pytest.raises(ArtifactError, match="does not have"):
        load_tokenizer(file)
