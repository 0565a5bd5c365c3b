"""Tokens to text: the same as decoding at the end, in whole characters, and never a part of a stop string."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from treadle.data.tokenizer import token_bytes, train_tokenizer
from treadle.serve.text import TextStream

SIZE = 300
TOKENIZER = train_tokenizer(["def f(x):\n    return 'é你🙂' * x  # ünïcödé\n" * 3], SIZE)
TABLE = token_bytes(TOKENIZER, SIZE)


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """One character at a time: cut where the first stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def stream(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    table = [piece.encode() for piece in pieces]
    out = TextStream(table, stops)
    given = []
    for index in range(len(table)):
        given.append(out.push(index))
        if out.stopped:
            break
    given.append(out.finish())
    assert "".join(given) == out.text
    return given, out.stopped


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40))
def test_any_tokens_give_what_the_tokenizer_decodes(tokens: list[int]) -> None:
    out = TextStream(TABLE)
    text = "".join(out.push(token) for token in tokens) + out.finish()
    whole = TOKENIZER.decode(tokens, skip_special_tokens=True)
    # A character that is only begun at the end is left out; the decoder shows it as one U+FFFD.
    assert text == whole or text + "�" == whole


@given(st.text(max_size=30))
def test_no_piece_holds_half_a_character(text: str) -> None:
    tokens = TOKENIZER.encode(text, add_special_tokens=False).ids
    out = TextStream(TABLE)
    pieces = [out.push(token) for token in tokens]
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces) or "�" in text


@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=8), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4))
def test_stop_strings_cut_alike_however_the_text_falls_into_tokens(pieces: list[str], stops: list[str]) -> None:
    given, stopped = stream(pieces, stops)
    assert ("".join(given), stopped) == reference("".join(pieces), stops)


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    assert stream(["a", "E", "N", "x", "E", "ND", "y"], ["END"]) == (["a", "", "", "ENx", "", "", ""], True)
    assert stream(["a", "EN"], ["END"]) == (["a", "", "EN"], False)


def test_special_tokens_and_unknown_ids_have_no_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_tokens([AddedToken("né 1", special=False)])
    table = token_bytes(tokenizer, SIZE + 5)
    assert table[0] == b""
    assert table[tokenizer.token_to_id("né 1")] == "né 1".encode()
    assert table[-1] == b""


def test_every_byte_has_its_token() -> None:
    assert {bytes([byte]) for byte in range(256)} <= set(TABLE)
