"""Tokens that are hidden from a text, to be found from what stands around them (Devlin et al. 2019, section 3.1). What is hidden is
a pure function of (seed, example number). B examples of T positions; V tokens, the last of which is the mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from treadle.core.batch import IGNORE, Batch
from treadle.data.columns import Numbers
from treadle.data.loader import Examples, Windows
from treadle.data.shards import END_ID, Shard
from treadle.data.tokenizer import keeps_spaces, token_bytes
from treadle.spec.heads import MaskedToken

Flags = npt.NDArray[np.bool_]

_HIDDEN, _REPLACED = 0.8, 0.9  # shares of the chosen tokens: 80% are hidden, 10% replaced by any other, 10% left as they are


class Masker:
    """``settings.mask`` of each example's tokens are chosen, whole words if asked; the end mark never is. At least one word is."""

    def __init__(self, tokenizer: Tokenizer, settings: MaskedToken, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.vocabulary = tokenizer.get_vocab_size()
        table = token_bytes(tokenizer, self.vocabulary)
        joins = keeps_spaces(tokenizer) and settings.whole_words
        self._opens = np.array([joins and _letter(piece[:1]) for piece in table])
        self._goes_on = np.array([joins and (_letter(piece[-1:]) or piece == b" ") for piece in table])

    def words(self, tokens: Numbers) -> Numbers:
        """The number of the word that each token (T,) belongs to: a letter goes on with the word of a letter, or of a lone
        space, before it."""
        inside = self._opens[tokens[1:]] & self._goes_on[tokens[:-1]]
        return np.concatenate([[0], np.cumsum(~inside)])

    def __call__(self, tokens: Numbers, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Tokens (B, T) of the examples ``numbers`` (B,) -> what is read, and what is to be found, ``IGNORE`` elsewhere."""
        read, wanted = tokens.copy(), np.full_like(tokens, IGNORE)
        for row, number in enumerate(numbers):
            source = np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(int(number),)))
            raw = source.random_raw(3 * tokens.shape[1]).reshape(3, -1)
            chosen = self._choose(tokens[row], raw[0])
            share = raw[1] / 2.0**64
            other = (1 + raw[2] % (self.vocabulary - 2)).astype(np.int64)  # neither the end mark nor the mask
            wanted[row, chosen] = tokens[row, chosen]
            read[row, chosen & (share < _HIDDEN)] = self.vocabulary - 1
            replaced = chosen & (share >= _HIDDEN) & (share < _REPLACED)
            read[row, replaced] = other[replaced]
        return read, wanted

    def _choose(self, tokens: Numbers, raw: npt.NDArray[np.uint64]) -> Flags:
        """Words in random order, as long as they fit into the share that is hidden."""
        words = self.words(tokens)
        usable = np.ones(words[-1] + 1, np.bool_)
        usable[words[tokens == END_ID]] = False
        sizes = np.bincount(words)
        order = np.argsort(raw[: len(sizes)], kind="stable")
        order = order[usable[order]]
        limit = max(1, round(self.settings.mask * int(sizes[order].sum())))
        taken = order[np.cumsum(sizes[order]) <= limit]
        return np.isin(words, taken if len(taken) else order[:1])


def _letter(byte: bytes) -> bool:
    """Whether it belongs to a letter; bytes above 127 are read as parts of letters."""
    return byte.isalpha() or byte >= b"\x80"


class Masked(Examples):
    """The windows of a text with tokens hidden, others in each epoch."""

    def __init__(self, windows: Windows, masker: Masker) -> None:
        self.windows, self.masker, self.context = windows, masker, windows.context

    def rows(self, numbers: Numbers) -> Batch:
        whole = self.windows.rows(numbers)
        read, wanted = self.masker(whole.targets[self.windows.head].numpy(), numbers)
        return Batch({self.windows.input: torch.from_numpy(read)}, {self.windows.head: torch.from_numpy(wanted)})


def masked_documents(
    shard: Shard, chosen: Numbers, masker: Masker, context: int, input: str, head: str
) -> Iterator[tuple[int, Batch]]:
    """(which of ``chosen``, one piece of T tokens or the rest of that document), each with its own fixed mask. The end mark alone
    is no piece."""
    number = 0
    for place, index in enumerate(chosen):
        tokens = shard.document(int(index)).astype(np.int64)
        for start in range(0, len(tokens), context):
            piece = tokens[None, start : start + context]
            number += 1
            if (piece != END_ID).any():
                read, wanted = masker(piece, np.array([number]))
                yield place, Batch({input: torch.from_numpy(read)}, {head: torch.from_numpy(wanted)})
