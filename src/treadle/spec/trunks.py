"""``model.trunk:`` what stands between inputs and heads. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.spec.fields import Fraction, Section
from treadle.spec.kinds import OneOf

Size = Annotated[int, Field(ge=1)]
Activation = Literal["sigmoid", "tanh", "relu", "gelu", "silu"]


class Transformer(Section):
    """Attention over a sequence. As a language model: a decoder in the Qwen3 layout (``qk_norm: true``) or the Llama layout."""

    depth: int = Field(ge=1, le=128)
    """Layers: the one dial; every field below that is not given follows from it."""
    width: int | None = Field(default=None, ge=16)
    """Features per token; None: 64 per layer."""
    heads: int | None = Field(default=None, ge=1)
    """Query heads; None: one per 64 features."""
    kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads, a divisor of ``heads``; None: about a third of them."""
    hidden: int | None = Field(default=None, ge=16)
    """Features inside the SwiGLU block; None: 8/3 of the width, rounded up to 32."""
    qk_norm: bool = True
    """RMS-normalise queries and keys per head."""
    tie_embeddings: bool = True
    """The output layer shares the token embedding's weights."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary position angles."""
    norm_eps: float = Field(default=1e-6, gt=0, lt=1)
    """Added under the root of each RMS norm."""
    dropout: Fraction = 0.0
    """Share of features zeroed after attention and after the SwiGLU block, in training only."""
    causal: bool | None = None
    """Look back only; None: where a head predicts what comes next."""


class Mlp(Section):
    """Dense layers over all inputs side by side."""

    width: Size | Annotated[list[Size], Field(min_length=1)] = 256
    """Features of each layer, or one number per layer."""
    depth: int = Field(default=2, ge=1, le=64)
    """Layers, where ``width`` is one number."""
    activation: Activation = "relu"
    """Between layers: sigmoid, tanh, ReLU, GELU or SiLU."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Between each layer's product and its activation."""
    dropout: Fraction = 0.0
    """Share of features zeroed after each activation, in training only."""
    residual: bool = False
    """Add each layer's input to its output, where they are of one width."""

    @property
    def widths(self) -> list[int]:
        return [self.width] * self.depth if isinstance(self.width, int) else list(self.width)


class Conv(Section):
    """Convolutions over an image or a spectrogram: plain blocks, or a residual net."""

    channels: list[Size] = Field(default=[32, 64, 64], min_length=1)
    """Of each stage; between stages the picture is halved."""
    blocks: int = Field(default=1, ge=1, le=16)
    """Convolutions, or residual blocks, of each stage."""
    kernel: Literal[1, 3, 5, 7] = 3
    """Side of the convolutions (pixels)."""
    residual: bool = False
    """Blocks of two convolutions around which the input is added (He et al. 2016), with batch norm."""
    norm: Literal["none", "batch"] = "none"
    """After each convolution; a residual net has batch norm in any case."""
    pad: bool = True
    """Keep the size of the picture in each convolution."""
    activation: Activation = "relu"
    """After each convolution: sigmoid, tanh, ReLU, GELU or SiLU."""
    dense: list[Size] = []
    """Dense layers behind the last stage; none: the mean over the picture."""
    dropout: Fraction = 0.0
    """Share of features zeroed before the head, in training only."""


class Recurrent(Section):
    """A recurrent net over a sequence. Of a pair, both texts are read apart by one net, and the positions of each are aligned with
    the other's and compared (Parikh et al. 2016; Chen et al. 2017)."""

    cell: Literal["lstm", "gru"] = "lstm"
    """Long short-term memory (Hochreiter and Schmidhuber 1997), or gated recurrent unit (Cho et al. 2014)."""
    width: int = Field(default=128, ge=1)
    """Features of each direction."""
    depth: int = Field(default=1, ge=1, le=16)
    """Layers."""
    directions: Literal[1, 2] = 1
    """1: forward only, as predicting what comes next demands. 2: forward and backward."""
    embedding: int = Field(default=128, ge=1)
    """Features of each position that it reads."""
    dropout: Fraction = 0.0
    """Share of features zeroed before each layer and before the head, in training only."""


class Pretrained(Section):
    """An encoder with open weights: a folder with config.json, model.safetensors in the layout of BERT, and its tokenizer. A model
    that was trained from it holds all its weights and needs the folder no more."""

    folder: str = Field(min_length=1)
    """Relative to the project folder; ``{package:NAME}`` is the folder of an installed Python package."""
    dropout: Fraction = 0.1
    """Share of features zeroed, in training only."""
    freeze: int = Field(default=0, ge=0)
    """Lowest layers, embeddings first, that are not trained on; 0: all are trained."""


class Trunk(OneOf):
    """One trunk: its kind with settings."""

    what: ClassVar[str] = "trunk"
    example: ClassVar[str] = "transformer: {depth: 4}"

    transformer: Transformer | None = None
    mlp: Mlp | None = None
    conv: Conv | None = None
    recurrent: Recurrent | None = None
    pretrained: Pretrained | None = None
