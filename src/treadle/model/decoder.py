"""A language model as its compiled decoder runs it: weights laid out for one pass over them, keys and values in pages. How many
threads there are changes no bit of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core import native
from treadle.core.native import Kernels
from treadle.model.adapter import Adapter
from treadle.model.layers.four_bits import KIND as INT4
from treadle.model.layers.four_bits import Int4Linear
from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.quantized import Int8Rows
from treadle.model.layers.rounded import is_exact
from treadle.model.model import LanguageModel
from treadle.model.passes import Decoder, Pages, Pass
from treadle.model.trunks.transformer import Layer

_MOST = 256
"""Features of a head: the kernel's MOST."""
_STEP = {INT4: 64, torch.int8: 64, torch.bfloat16: 32, torch.float32: 16}
"""Columns that the kernel reads at once."""


class CompiledDecoder(Decoder):
    """``kind`` of the layers' weights: int4 or int8 where ``model`` holds them so, else bf16 where all of them
    are exact in it, else float32."""

    has_weights = True

    def __init__(self, model: LanguageModel, run: Kernels, threads: int, adapters: Sequence[Adapter] = ()) -> None:
        self.shape, self.run, self.threads, self.adapters = model.shape, run, threads, adapters
        kind = _kind(model)
        assert kind is not None
        exact = kind == torch.float32 and all(is_exact(m.weight, torch.bfloat16) for m in _matrices(model))
        self.kind = torch.bfloat16 if exact else kind
        self.rope = model.trunk.rope.contiguous()
        self.weights: list[Tensor | None] = []
        for layer in cast(Iterable[Layer], model.trunk.layers):
            attention, mlp = layer.self_attn, layer.mlp
            self.weights += [layer.input_layernorm.weight.detach().float()]
            self.weights += self._joined(attention.q_proj, attention.k_proj, attention.v_proj)
            norms = (attention.q_norm, attention.k_norm)
            self.weights += [norm.weight.detach().float() if isinstance(norm, RMSNorm) else None for norm in norms]
            self.weights += self._joined(attention.o_proj)
            self.weights += [layer.post_attention_layernorm.weight.detach().float()]
            self.weights += self._joined(mlp.gate_proj, mlp.up_proj)
            self.weights += self._joined(mlp.down_proj)
        embedding = self._joined(model.embedding)
        head: Any = model.heads[model.head]
        self.weights += [model.trunk.norm.weight.detach().float()]
        self.weights += [*(embedding if self.shape.tie_embeddings else self._joined(head.lm_head)), *embedding]

    @staticmethod
    def fits(model: LanguageModel) -> bool:
        """Whether the kernel is for such sizes and such matrices."""
        return _kind(model) is not None and model.shape.head_dim <= _MOST and model.trunk.rope.device.type == "cpu"

    def pages(self, count: int) -> Pages:
        return Pages(self.shape, self.kind, count)

    def read(self, given: Pass, pages: Pages) -> Tensor:
        s, scores = self.shape, torch.empty(len(given.which), self.shape.vocabulary)
        sizes = [
            self.threads, s.depth, s.width, s.heads, s.kv_heads, s.head_dim, s.hidden, s.vocabulary, s.context, pages.count,
            len(given.ids), len(given.which), given.table.shape[1], 0,
        ]
        of: list[int] | None = None
        ranks: list[int] | None = None
        matrices: list[Tensor | None] | None = None
        if any(adapter >= 0 for adapter in given.adapters):
            of = [given.adapters[text] for text in given.texts]
            ranks = [rank for adapter in self.adapters for rank in adapter.ranks]
            matrices = [matrix for adapter in self.adapters for matrix in adapter.matrices]
            sizes[-1] = max(ranks)
        done = self.run(
            "decode", self.kind, sizes, s.norm_eps, self.weights, self.rope, list(given.ids), list(given.places),
            list(given.texts), given.table, list(given.which) or [0], pages.keys, pages.values, scores, of, ranks,
            matrices,
        )
        if not done:
            raise MemoryError(f"no memory for a pass of {len(given.ids)} tokens")
        return scores

    def _joined(self, *modules: Any) -> list[Tensor | None]:
        """Rows of matrices that have the same input, filled up to what the kernel reads at once, and their scales."""
        if isinstance(modules[0], Int4Linear):
            return [torch.cat([_pieces(m) for m in modules]), None]
        weight = torch.cat([m.weight.detach() for m in modules])
        weight = F.pad(weight, (0, -weight.shape[1] % _STEP[self.kind]))
        if not isinstance(modules[0], Int8Rows):
            return [weight.to(self.kind), None]
        return [(weight.int() + 128).to(torch.uint8), torch.cat([m.weight_scale.float() for m in modules])]


def _pieces(layer: Int4Linear) -> Tensor:
    """(N, bytes) uint8: for every 64 columns the scales of two groups as bf16, then the numbers of the first in the lower halves of
    32 bytes and those of the second in the upper ones; at the end the groups' least values as bf16."""
    rows, groups = layer.weight_scale.shape
    odd = groups % 2
    numbers = F.pad(layer.groups(), (0, 0, 0, odd)).view(rows, -1, 2, 32)
    scales = F.pad(layer.weight_scale, (0, odd)).view(rows, -1, 2)
    pieces = torch.cat([scales.view(torch.uint8), numbers[:, :, 0] | numbers[:, :, 1] << 4], 2)
    leasts = F.pad(layer.weight_least, (0, odd))
    return torch.cat([pieces.flatten(1), leasts.view(torch.uint8)], 1).contiguous()


def _kind(model: LanguageModel) -> torch.dtype | None:
    """The type of the layers' weights, float32 where they are not quantised; None: there is no kernel for such a mix."""
    layers = _matrices(model.trunk.layers)
    outer = [m for m in _matrices(model) if not any(m is own for own in layers)]
    for inside, outside, kind in (
        (nn.Linear, (nn.Linear, nn.Embedding), torch.float32), (Int8Rows, Int8Rows, torch.int8), (Int4Linear, Int8Rows, INT4),
    ):
        if all(isinstance(m, inside) for m in layers) and all(isinstance(m, outside) for m in outer):
            return kind
    return None


def _matrices(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Embedding, Int8Rows, Int4Linear))]


def compiled_decoder(model: nn.Module, threads: int, adapters: Sequence[Adapter] = ()) -> CompiledDecoder | None:
    """None: there are no kernels for ``model``."""
    run = native.kernels() if isinstance(model, LanguageModel) and CompiledDecoder.fits(model) else None
    return CompiledDecoder(model, run, threads, adapters) if run and isinstance(model, LanguageModel) else None
