"""What others' language models have and Treadle's have not, for ``train_quality.py --ablate``: changes of a model or its batches.

They are computed by torch's operations, so their losses count and not their times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from treadle.core.batch import Batch
from treadle.data.loader import Windows
from treadle.model.model import LanguageModel
from treadle.train.ahead import Batches


class _Relu2(nn.Module):
    """down(relu(up(x))^2) (So et al. 2021, section 4), with as many weights as SwiGLU."""

    def __init__(self, width: int, generator: torch.Generator, depth: int) -> None:
        super().__init__()
        self.gate_proj = nn.Identity()
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        nn.init.normal_(self.up_proj.weight, 0.0, width**-0.5, generator)
        nn.init.normal_(self.down_proj.weight, 0.0, (4 * width) ** -0.5 / (2 * depth) ** 0.5, generator)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(self.up_proj(x).relu().square())
        return y


def relu2(model: LanguageModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in model.trunk.layers:
        layer.mlp = _Relu2(model.shape.width, generator, model.shape.depth)


class _Values(nn.Linear):
    """Values of attention with a learned vector of each token on top (Zhou et al. 2024, in the form of nanoGPT speed runs)."""

    added: Callable[[], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        values = super().forward(x)
        return values + self.added().to(values.dtype)


def value_embeddings(model: LanguageModel, seed: int) -> None:
    shape, tokens = model.shape, {}
    text: Any = model.inputs[model.input]
    text.register_forward_pre_hook(lambda module, given: tokens.update(now=given[0]))
    for number, layer in enumerate(model.trunk.layers):
        embedding = nn.Embedding(shape.vocabulary, shape.kv_heads * shape.head_dim)
        nn.init.zeros_(embedding.weight)
        model.inputs[f"values{number}"] = embedding
        attention: Any = layer.self_attn
        attention.v_proj.__class__ = _Values
        attention.v_proj.added = lambda embedding=embedding: embedding(tokens["now"])


class _Ramp:
    """Batches whose rows or context change on the way."""

    def __init__(self, at: Callable[[int, int], Batch]) -> None:
        self.batch_at = at


def longer_context(batches: Windows, steps: int) -> Batches:
    """The first half of the run with half the context and twice the rows."""
    short = Windows(batches.shard, batches.context // 2, batches.seed)
    return _Ramp(lambda step, batch: short.batch_at(step, 2 * batch) if step < steps // 2 else batches.batch_at(step, batch))


def larger_batch(batches: Windows, steps: int) -> Batches:
    """The first half of the run with half of the rows, the second with one and a half times as many."""
    return _Ramp(lambda step, batch: batches.batch_at(step, batch // 2 if step < steps // 2 else batch * 3 // 2))


MODELS = {"relu2": relu2, "value embeddings": value_embeddings}
BATCHES = {"longer context": longer_context, "larger batch": larger_batch}
