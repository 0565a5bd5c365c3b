"""A transformer over all inputs, one behind the other. B rows, T positions, D features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from treadle.model.layers.norm import RMSNorm
from treadle.model.layers.rope import rope_table
from treadle.model.layers.signal import Form, Signal, join_signals
from treadle.model.trunks.transformer import Layer
from treadle.spec.derive import transformer_shape
from treadle.spec.trunks import Transformer

_TABLE = 1024  # rotary positions that are ready; longer sequences extend it


class EncoderTrunk(nn.Module):
    """Each input is brought to the trunk's width and marked with which one it is; then the layers of the language models' trunk,
    which look both ways unless ``causal``."""

    rope: Tensor

    def __init__(self, settings: Transformer, forms: Sequence[Form], causal: bool) -> None:
        super().__init__()
        self.shape = transformer_shape(settings, 0, 0)
        width = self.shape.width
        self.causal = causal
        self.bring = nn.ModuleList(nn.Identity() if form.width == width else nn.Linear(form.width, width) for form in forms)
        self.which = nn.Parameter(torch.zeros(len(forms), width)) if len(forms) > 1 else None
        self.layers = nn.ModuleList(Layer(self.shape, settings.dropout) for _ in range(self.shape.depth))
        self.norm = RMSNorm(width, self.shape.norm_eps)
        self.register_buffer("rope", rope_table(_TABLE, self.shape.head_dim, self.shape.rope_theta), persistent=False)
        length = sum(form.length for form in forms) if all(form.length for form in forms) else 0
        self.form = Form(length, width, forms[0].grid if len(forms) == 1 else None)

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """Signals of all inputs -> (B, T, D)"""
        brought = [bring(part.features) for bring, part in zip(self.bring, parts, strict=True)]
        if self.which is not None:
            brought = [x + self.which[index] for index, x in enumerate(brought)]
        joined = join_signals([Signal(x, part.lengths) for x, part in zip(brought, parts, strict=True)])
        x, mask = joined.features, joined.mask()
        if x.shape[1] > self.rope.shape[1]:
            self.rope = rope_table(2 * x.shape[1], self.shape.head_dim, self.shape.rope_theta).to(x.device)
        look = None if mask is None else mask[:, None, None]  # (B, 1, 1, T)
        if self.causal and look is not None:
            look = look & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        rope = self.rope[:, : x.shape[1]]
        for layer in self.layers:
            x = layer(x, rope, None, look, self.causal)
        return Signal(self.norm(x), joined.lengths)
