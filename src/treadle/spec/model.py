"""``model:`` inputs, a trunk, and heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from treadle.spec.fields import Fraction, Section


class Tokenizer(Section):
    bpe: int = Field(default=4096, ge=260, le=65_536)
    """Size of the byte-level BPE vocabulary, specials included."""


class TextInput(Section):
    """A sequence of tokens."""

    tokenizer: Tokenizer = Tokenizer()
    context: int = Field(default=256, ge=8, le=131_072)
    """Tokens that the model sees at once."""


class Transformer(Section):
    """A decoder in the Qwen3 layout (``qk_norm: true``) or the Llama layout (``qk_norm: false``)."""

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


class Trunk(Section):
    transformer: Transformer | None = None

    @model_validator(mode="after")
    def _one(self) -> Trunk:
        if self.transformer is None:
            raise ValueError("name one trunk, like 'transformer: {depth: 4}'")
        return self


def _named_input(value: Any) -> Any:
    if value is None or value == "text":
        return {}
    if isinstance(value, str):
        raise ValueError("an input is 'text' or a mapping such as {tokenizer: {bpe: 4096}, context: 256}")
    return value


_Given = TextInput | Literal["text"] | None


class Model(Section):
    inputs: dict[str, Annotated[TextInput, BeforeValidator(_named_input, json_schema_input_type=_Given)]] = Field(
        default={"text": TextInput()}, min_length=1, max_length=1
    )
    """Name of a record's field to how it becomes a sequence."""
    trunk: Trunk
    heads: dict[str, Literal["next_token"]] = Field(default={"next": "next_token"}, min_length=1, max_length=1)
    """Name to kind of what the model gives."""

    @property
    def text(self) -> TextInput:
        return next(iter(self.inputs.values()))
