"""An encoder with open weights in the layout of BERT. B rows, T positions, D features, H heads, C features per head."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from treadle.model.layers.attend import attend
from treadle.model.layers.signal import Form, Signal
from treadle.spec.encoder import EncoderShape


class SelfAttention(nn.Module):
    """Every position looks at every other that is no padding (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads, self.dropout = shape.num_attention_heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, look: Tensor | None) -> Tensor:
        """(B, T, D); ``look`` (B, 1, 1, T) or None -> (B, T, D)"""
        B, T, D = x.shape
        q, k, v = (part(x).view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = attend(q, k, v, look, dropout=self.dropout if self.training else 0.0)
        return y.transpose(1, 2).reshape(B, T, D)  # from (B, H, T, C)


class Output(nn.Module):
    """A product, added to what came before, and normalised."""

    def __init__(self, before: int, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(before, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        z: Tensor = self.LayerNorm(x + self.dropout(self.dense(y)))
        return z


class Layer(nn.Module):
    """Attention, then a GELU block of two products, each with its norm behind it, under their published weight names."""

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        width = shape.hidden_size
        self.attention = nn.ModuleDict({"self": SelfAttention(shape, dropout), "output": Output(width, shape, dropout)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, shape.intermediate_size)})
        self.output = Output(shape.intermediate_size, shape, dropout)

    def forward(self, x: Tensor, look: Tensor | None) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, look), x)
        y: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return y


class Encoder(nn.Module):
    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.num_hidden_layers))

    def forward(self, x: Tensor, look: Tensor | None) -> Tensor:
        """(B, T, D); ``look`` (B, 1, 1, T) or None -> (B, T, D)"""
        for layer in self.layer:
            x = layer(x, look)
        return x


class PretrainedTrunk(nn.Module):
    """The layers behind the embeddings; rows are summed up as the mean over their tokens (Reimers and Gurevych 2019, section 3)."""

    def __init__(self, shape: EncoderShape, dropout: float, forms: Sequence[Form]) -> None:
        super().__init__()
        self.encoder = Encoder(shape, dropout)
        self.dropout = nn.Dropout(dropout)
        self.form = Form(0, shape.hidden_size)

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """One signal (B, T, D) -> (B, T, D)"""
        (part,) = parts
        x, mask = part.features, part.mask()
        look = None if mask is None else mask[:, None, None]
        x = self.encoder(x, look)
        return Signal(x, part.lengths, self.dropout(Signal(x, part.lengths).mean()))
