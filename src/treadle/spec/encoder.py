"""The sizes of an encoder with open weights, as its config.json has them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderShape:
    """BERT's sizes (Devlin et al. 2019, section 3), under the names of its config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> EncoderShape:
        """From a config.json; keys that are not sizes are left. Raises ``KeyError`` for one that is missing."""
        needed = {name: config[name] for name in cls.__dataclass_fields__ if name in config or name in _NEEDED}
        return cls(**needed)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_NEEDED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
)
