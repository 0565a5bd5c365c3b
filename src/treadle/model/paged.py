"""Keys and values of many texts in pages: each text holds as many as it has filled, and texts that begin alike share them.

A page that is full is known by a digest of all tokens up to its end. When its text is done it stays, until its room is needed, the
one least lately used first; a text of the same reader that begins with those tokens takes it over instead of reading them again.
Since the decoder's results follow from a text alone, that changes no answer. Readers share nothing: how soon a text was known would
tell one how another's began.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.model.memory import Memory, Part, TextModel
from treadle.model.passes import PAGE, Decoder, Pages, Pass


class Paged(Memory):
    """Pages for the texts of ``slots``, of at most ``most`` bytes, but for one whole context in any case, and no more than fill all
    slots; None: as many as that."""

    def __init__(self, decoder: Decoder, slots: int, most: int | None = None) -> None:
        super().__init__(slots, decoder.shape.context)
        each = -(-decoder.shape.context // PAGE)
        count = slots * each
        if most is not None:
            count = min(count, max(each, most // Pages.size(decoder.shape, decoder.kind)))
        self.decoder, self.pages = decoder, decoder.pages(count)
        self.hits = self.asked = 0
        """Prompt tokens that were known already, and all."""
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._tokens: list[list[int]] = [[] for _ in range(slots)]
        self._digests: list[list[bytes]] = [[] for _ in range(slots)]
        self._adapters, self._seeds = [-1] * slots, [b""] * slots
        self._promised = [0] * slots  # pages that a slot may still take
        self._free = list(range(count))
        self._users = [0] * count
        self._name: dict[int, bytes] = {}  # of full pages
        self._full: dict[bytes, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # full pages that no slot holds, the next to go first

    @property
    def drafts(self) -> bool:
        return True

    @property
    def has_weights(self) -> bool:
        return self.decoder.has_weights

    def admit(self, slot: int, tokens: Sequence[int], most: int, adapter: int = -1, reader: str = "") -> int | None:
        needed = -(-min(most, self.context) // PAGE)
        assert needed <= self.pages.count, f"a text of {most} tokens never has room"
        seed = bytes.fromhex(self.decoder.adapters[adapter].digest) if adapter >= 0 else b""
        seed += hashlib.sha256(reader.encode()).digest() if reader else b""
        shared = self._shared(tokens, seed)
        room = len(self._free) + sum(page not in shared for page in self._unused) - sum(self._promised)
        if needed - len(shared) > room:
            return None
        for page in shared:
            self._hold(page)
        self._held[slot], self._promised[slot] = shared, needed - len(shared)
        known = len(shared) * PAGE
        self._tokens[slot], self._digests[slot] = list(tokens[:known]), [self._name[page] for page in shared]
        self._adapters[slot], self._seeds[slot] = adapter, seed
        self.lengths[slot] = known
        self.hits += known
        self.asked += len(tokens)
        return known

    def release(self, slot: int) -> None:
        self._name_full(slot)
        for page in self._held[slot]:
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._name:
                self._unused[page] = None
            else:
                self._free.append(page)
        self._held[slot], self._tokens[slot], self._digests[slot], self._promised[slot] = [], [], [], 0
        self.lengths[slot] = 0

    def read_parts(self, model: TextModel, parts: Sequence[Part]) -> Tensor:
        ids: list[int] = []
        places: list[int] = []
        texts: list[int] = []
        which: list[int] = []
        for row, part in enumerate(parts):
            self._name_full(part.slot)
            start = self.lengths[part.slot]
            assert start + len(part.tokens) <= self.context, f"{len(part.tokens)} more do not fit a context of {self.context}"
            self._make_room(part.slot, start + len(part.tokens))
            which += range(len(ids) + len(part.tokens) - part.asked, len(ids) + len(part.tokens))
            ids += part.tokens
            places += range(start, start + len(part.tokens))
            texts += [row] * len(part.tokens)
            del self._tokens[part.slot][start:]
            self._tokens[part.slot] += part.tokens
        held = [self._held[part.slot] for part in parts]
        longest = max(map(len, held))
        table = torch.tensor([pages + [0] * (longest - len(pages)) for pages in held])
        adapters = [self._adapters[part.slot] for part in parts]
        scores = self.decoder.read(Pass(ids, places, texts, table, which, adapters), self.pages)
        for part in parts:  # not before: where reading fails, the pages hold nothing of these tokens
            self.lengths[part.slot] += len(part.tokens)
        return scores

    def take_back(self, slot: int, count: int) -> None:
        self.lengths[slot] -= count

    def _shared(self, tokens: Sequence[int], seed: bytes) -> list[int]:
        """Full pages with which a text begins, of the adapter and the reader of ``seed``; at least one token is left to read."""
        found, digest = [], seed
        for start in range(0, len(tokens) - PAGE, PAGE):
            digest = _digest(digest, tokens[start : start + PAGE])
            page = self._full.get(digest)
            if page is None:
                break
            found.append(page)
        return found

    def _hold(self, page: int) -> None:
        self._users[page] += 1
        self._unused.pop(page, None)

    def _make_room(self, slot: int, length: int) -> None:
        held = self._held[slot]
        while len(held) * PAGE < length:
            if not self._free:
                page, _ = self._unused.popitem(last=False)
                del self._full[self._name.pop(page)]
                self._free.append(page)
            page = self._free.pop()
            self._users[page] = 1
            held.append(page)
            self._promised[slot] = max(0, self._promised[slot] - 1)

    def _name_full(self, slot: int) -> None:
        """Let others find the pages that are full by now; of pages alike the first is found."""
        digests, tokens = self._digests[slot], self._tokens[slot]
        while (len(digests) + 1) * PAGE <= self.lengths[slot]:
            start = len(digests) * PAGE
            digest = _digest(digests[-1] if digests else self._seeds[slot], tokens[start : start + PAGE])
            page = self._held[slot][len(digests)]
            digests.append(digest)
            if digest not in self._full:
                self._full[digest], self._name[page] = page, digest


def _digest(before: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.sha256(before + array("q", tokens).tobytes()).digest()
