"""A language model as torch's operations run it over pages: on a GPU, and on a processor for which there are no kernels.

Products and sums of one shape add up in one order, those of another perhaps in another. So all that is computed has the same shape
in any company: tokens go through the model a tile at a time, filled up where they are fewer; those of one text look
``QUERIES`` together at ``SPAN`` places at a time, and what is behind their own place counts nothing.

N rows of a tile, B groups of Q queries, H query heads, K key heads, C features of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.runtime import native_bf16
from treadle.model.adapter import PRODUCTS, Adapter
from treadle.model.layers.rounded import round_modules
from treadle.model.model import LanguageModel
from treadle.model.passes import PAGE, Decoder, Pages, Pass
from treadle.model.trunks.transformer import Layer

ROWS, GPU_ROWS = 8, 64
"""Of a tile. A processor is soon slower for more; on a GPU, as long as that, it is reading the weights that takes the time."""
QUERIES = 8
SPAN = 256
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Tile:
    """Tokens that go through the model together. ``real`` of the N rows are some text's, the others fill up."""

    real: int
    spans: list[tuple[Tensor, Tensor]]  # (B, pages) of each group's text; (B, 1, 1, Q, S) True where a query may not look
    tokens: Tensor  # (1, N)
    places: Tensor  # (1, N)
    pages: Tensor  # (real,) where the row's keys and values go
    offsets: Tensor  # (real,) within the page
    rows: Tensor  # (B, Q) the row of each query
    where: Tensor  # (N,) each row's query among B Q


class TorchDecoder(Decoder):
    """Of a ``model`` that it takes to ``device`` and changes: on a GPU its matrices become bf16 where the GPU multiplies that."""

    def __init__(
        self, model: LanguageModel, device: torch.device, adapters: Sequence[Adapter] = (), kind: torch.dtype | None = None
    ) -> None:
        """``kind`` of numbers of matrices that may be rounded so (``round_modules``); None: what suits ``device``."""
        self.shape, self.device, self.adapters = model.shape, device, adapters
        self.model = model.eval().to(device)
        if kind is None and device.type != "cpu":
            kind = torch.bfloat16 if native_bf16(device) else torch.float32
        if kind is not None:
            round_modules(model, kind)
        plain = any(isinstance(module, (nn.Linear, nn.Embedding)) for module in model.modules())
        self.kind = torch.float32 if plain or kind is None else kind
        self.tile = ROWS if device.type == "cpu" else GPU_ROWS
        self._asking: list[tuple[int, Tensor]] = []  # adapters that the tile's texts have, and which rows (1, N, 1)
        self._hooks(model)

    def pages(self, count: int) -> Pages:
        made = Pages(self.shape, self.kind, count, self.device)
        for part in (made.keys, made.values):
            part.zero_()  # what may not be seen is multiplied with 0, and nothing else may come of that
        return made

    @torch.inference_mode()
    def read(self, given: Pass, pages: Pages) -> Tensor:
        asked = {token: place for place, token in enumerate(given.which)}
        scores = torch.empty(len(given.which), self.shape.vocabulary)
        for first in range(0, len(given.ids), self.tile):
            last = min(first + self.tile, len(given.ids))
            tile = self._tile(given, first, last)
            self._asking = self._asked_for(given, first, last)
            looks = [_Look(*both, tile, self.shape.kv_heads) for both in zip(pages.keys, pages.values, strict=True)]
            hidden = self.model.hidden(tile.tokens, tile.places, looks)
            here = [n for n in range(first, last) if n in asked]
            if here:
                rows = torch.tensor([n - first for n in here]).to(self.device)
                scores[[asked[n] for n in here]] = self.model.scores(hidden)[0].index_select(0, rows).float().cpu()
        return scores

    def _tile(self, given: Pass, first: int, last: int) -> _Tile:
        places, texts = list(given.places[first:last]), list(given.texts[first:last])
        more, groups = [0] * (self.tile - last + first), list(_groups(texts))
        rows = [[*range(start, end), *[start] * (QUERIES - end + start)] for _, start, end in groups]
        where = [block * QUERIES + n for block, (_, start, end) in enumerate(groups) for n in range(end - start)]
        owners = [text for text, _, _ in groups]
        if self.device.type != "cpu":  # there the number of groups may change how products add up
            rows += [[0] * QUERIES] * (self.tile - len(groups))
            owners += [0] * (self.tile - len(groups))
        table = given.table[torch.tensor(owners)]
        at, each = torch.tensor(places), torch.tensor(rows)
        last_seen, spans = at[each][:, None, None, :, None], []
        for start in range(0, max(places) + 1, SPAN):
            held = table[:, start // PAGE : (start + SPAN) // PAGE]
            spans.append((F.pad(held, (0, SPAN // PAGE - held.shape[1])), torch.arange(start, start + SPAN) > last_seen))
        parts = (
            torch.tensor([[*given.ids[first:last], *more]]), torch.tensor([places + more]),
            given.table[torch.tensor(texts), at // PAGE], at % PAGE, each, torch.tensor(where + more),
        )
        there = [(held.to(self.device), unseen.to(self.device)) for held, unseen in spans]
        return _Tile(last - first, there, *(part.to(self.device) for part in parts))

    # -- adapters -----------------------------------------------------------------------------------------------------

    def _hooks(self, model: LanguageModel) -> None:
        """Have each matrix that an adapter changes add what the adapter adds, for the rows that ask for it."""
        for index, layer in enumerate(cast(Iterable[Layer], model.trunk.layers)):
            for product, members in enumerate(PRODUCTS):
                at, first = index * len(PRODUCTS) + product, 0
                for member in members:
                    module = getattr(layer.self_attn, member, None) or getattr(layer.mlp, member)
                    last = first + len(module.weight)
                    pairs = {
                        place: (a.to(self.device), b[first:last].to(self.device))
                        for place, adapter in enumerate(self.adapters)
                        for a, b in [adapter.matrices[2 * at : 2 * at + 2]]
                        if a is not None and b is not None
                    }
                    if pairs:
                        module.register_forward_hook(partial(self._add, pairs))
                    first = last

    def _add(self, pairs: dict[int, _Pair], module: nn.Module, given: Any, y: Tensor) -> Tensor:
        for place, own in self._asking:
            if place in pairs:
                a, b = pairs[place]
                y = torch.where(own, y + given[0] @ a.T @ b.T, y)
        return y

    def _asked_for(self, given: Pass, first: int, last: int) -> list[tuple[int, Tensor]]:
        if not given.adapters:
            return []
        of = [given.adapters[text] for text in given.texts[first:last]] + [-1] * (self.tile - last + first)
        return [
            (place, torch.tensor([each == place for each in of])[None, :, None].to(self.device))
            for place in sorted(set(of)) if place >= 0
        ]


def _groups(texts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Of tokens that follow each other in one text, at most ``QUERIES``: the text, the first row, and the one behind the last."""
    start = 0
    for text, run in groupby(texts):
        end = start + len(list(run))
        for first in range(start, end, QUERIES):
            yield text, first, min(first + QUERIES, end)
        start = end


@dataclass(frozen=True)
class _Look:
    """One layer's pages, and the tile that reads them."""

    keys: Tensor  # (pages, K, C, PAGE)
    values: Tensor  # (pages, K, PAGE, C)
    tile: _Tile
    kv_heads: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (1, H, N, C), k and v (1, K, N, C) -> (1, N, H C): softmax of the scores over all places up to each row's own, a span
        at a time (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018)."""
        t = self.tile
        self.keys[t.pages, :, :, t.offsets] = k[0][:, : t.real].transpose(0, 1).to(self.keys.dtype)
        self.values[t.pages, :, t.offsets] = v[0][:, : t.real].transpose(0, 1).to(self.values.dtype)
        (groups, queries), features = t.rows.shape, q.shape[-1]
        q = q[0][:, t.rows].transpose(0, 1).reshape(groups, self.kv_heads, -1, features) * features**-0.5  # (B, K, G Q, C)
        total = sums = q.new_zeros(())
        highest = q.new_full((), -torch.inf)
        for held, unseen in t.spans:
            keys = self.keys[held].permute(0, 2, 3, 1, 4).flatten(3).float()  # (B, K, C, S)
            values = self.values[held].transpose(1, 2).flatten(2, 3).float()  # (B, K, S, C)
            scores = (q @ keys).view(groups, self.kv_heads, -1, queries, SPAN).masked_fill_(unseen, -torch.inf).flatten(2, 3)
            higher = torch.maximum(highest, scores.amax(-1, keepdim=True))
            weights, kept = scores.sub_(higher).exp_(), (highest - higher).exp_()
            total = total * kept + weights.sum(-1, keepdim=True)
            sums = sums * kept + weights @ values
            highest = higher
        found = (sums / total).view(groups, -1, queries, features).transpose(1, 2)  # (B, Q, H, C)
        return found.flatten(0, 1).index_select(0, t.where).flatten(1)[None]
