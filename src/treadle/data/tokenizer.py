"""Text <-> token ids: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), so any text has ids and comes back whole; or
words, or characters, of which the rare ones are one 'unknown'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from treadle.core.errors import ArtifactError, UserError, WorkError
from treadle.data.shards import END, END_ID
from treadle.spec.inputs import Tokenizer as TokenizerSpec

# No merge crosses these pieces: a word with the one sign or space before it; up to three digits; signs, with the space before
# them; line ends with the indentation that follows; spaces before a line's end, or before a word less one. Joining signs with
# the line end after them would make 4% fewer tokens of code, and a prompt that ends in ":" unlike anything seen in training.
PIECES = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+[ \t]*|\s+(?=[\r\n])|\s+(?!\S)|\s"
)

SMALLEST = 257
"""The end mark and the 256 bytes."""

_BATCH = 64  # texts encoded at once


def train_tokenizer(texts: Iterable[str], vocabulary: int, lower: bool = False) -> Tokenizer:
    """Learn at most ``vocabulary`` tokens (the end mark is id 0, then the bytes) from ``texts``. The same texts in the same
    order give the same tokenizer. Fewer tokens come out where the texts hold no further pair twice."""
    assert vocabulary >= SMALLEST, f"a vocabulary of {vocabulary} cannot hold the bytes"
    tokenizer = Tokenizer(models.BPE())
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _checked(tokenizer)


UNKNOWN = "<|unknown|>"
UNKNOWN_ID = 1
MASK = "<|mask|>"
"""Stands where a token is hidden from a masked language model; the last id of a vocabulary that has it."""

_CHARACTER = r"[\s\S]"
# Letters and digits, one Chinese, Japanese or Korean character, or one sign: what counts as a word.
_WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]"


def make_tokenizer(texts: Iterable[str], wanted: TokenizerSpec, lower: bool = False, mask: bool = False) -> Tokenizer:
    """A tokenizer of the kind and size that ``wanted`` says, learned from ``texts``. The end mark is id 0 in each; of words and
    characters that are not known, id 1 stands for all. ``lower``: it reads capitals as small letters. ``mask``: its last id is
    ``MASK``."""
    size = wanted.size - mask
    if wanted.words or wanted.characters:
        tokenizer = _known_pieces(texts, bool(wanted.words), size, lower)
    else:
        tokenizer = train_tokenizer(texts, size, lower)
    if mask:
        tokenizer.add_special_tokens([MASK])
    return _checked(tokenizer)


def _known_pieces(texts: Iterable[str], words: bool, size: int, lower: bool) -> Tokenizer:
    """The most frequent words, or characters, of ``texts``."""
    split = pre_tokenizers.Split(Regex(_WORD if words else _CHARACTER), "removed" if words else "isolated", invert=words)
    counts: Counter[str] = Counter()
    normalizer = normalizers.Lowercase()
    for text in texts:
        plain = normalizer.normalize_str(text) if lower else text
        counts.update([piece for piece, _ in split.pre_tokenize_str(plain)] if words else plain)
    kept = sorted(counts, key=lambda piece: (-counts[piece], piece))[: size - 2]
    ids = {piece: id for id, piece in enumerate([END, UNKNOWN, *kept])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    if lower:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    if not words:
        tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END, UNKNOWN])
    return tokenizer


def keeps_spaces(tokenizer: Tokenizer) -> bool:
    """Whether tokens say what stood between words, so that a text comes back as it was but for what is unknown."""
    return not (isinstance(tokenizer.model, models.WordLevel) and tokenizer.decoder is None)


def token_bytes(tokenizer: Tokenizer, size: int) -> list[bytes]:
    """Token id (below ``size``) -> the bytes that it adds to a text: of a byte-level BPE those that it stands for, of words the
    word behind a space; U+FFFD for 'unknown', nothing for other special tokens, nor for ids that the tokenizer lacks.

    Byte-level BPE writes each byte as one printable character (Radford et al. 2019, encoder.py of their release).
    """
    alphabet = _alphabet() if isinstance(tokenizer.model, models.BPE) else {}
    space = "" if keeps_spaces(tokenizer) else " "
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    table = []
    for id in range(size):
        text = tokenizer.id_to_token(id)
        if text == UNKNOWN:
            table.append(f"{space}\ufffd".encode())
        elif text is None or id in special:
            table.append(b"")
        elif alphabet and all(character in alphabet for character in text):
            table.append(bytes(alphabet[character] for character in text))
        else:  # a word, a character, or a token that was added to a BPE's vocabulary as plain text
            table.append((space + text).encode())
    return table


def _alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 characters stand for themselves, the other bytes for characters from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(plain))
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


def open_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json as it is, or the vocab.txt of an uncased BERT, or the folder that holds one. Raises ``UserError``."""
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        path = found[0] if found else path / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"there is no tokenizer at {path}", cure="mend tokenizer.file, which starts at the project folder")
    try:
        uncased = path.suffix == ".txt"
        made = BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer if uncased else Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is no tokenizer: {error}", cure="give a tokenizer.json or a BERT's vocab.txt") from None
    made.no_truncation()
    made.no_padding()
    return _checked(made)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises ``WorkError`` where there is none, ``ArtifactError`` where it is damaged or of another kind."""
    if not path.is_file():
        raise WorkError(f"there is no tokenizer at {path}", cure="run 'treadle run'")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"{path} is damaged: {error}", cure=f"remove {path.parent} and run again") from None
    if tokenizer.token_to_id(END) != END_ID:
        cure = "use a tokenizer.json that Treadle wrote"
        raise ArtifactError(f"{path} does not have {END} as token {END_ID}", cure=cure)
    return _checked(tokenizer)


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """The ids of each text, in order and without an end mark; an end mark written in a text is text like any other."""
    stream = iter(texts)
    while batch := list(islice(stream, _BATCH)):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def restore_tokenizer(text: str) -> Tokenizer:
    """From what ``Tokenizer.to_str`` gave."""
    return _checked(Tokenizer.from_str(text))


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ``ids``; the inverse of encoding for any text. Bytes that are not UTF-8 become U+FFFD."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _checked(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.encode_special_tokens = True  # what a user writes never becomes a control token
    return tokenizer
