"""Sizes of a decoder and what they cost, by arithmetic alone. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SCORES_HELD = 2**21
"""Scores over a vocabulary that training holds at once: few enough for a processor's cache, enough for matrix products at full
speed (docs/experiments.md)."""

REMADE = 2**19
"""Numbers of a tensor from which training makes it anew in the backward pass, where that is quick, instead of keeping it: making
smaller ones takes a small model's step longer than it saves memory that counts (docs/experiments.md)."""


QUERIES = 64
"""Queries of a document whose scores training computes together, against all keys up to the last of them (docs/experiments.md)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer in the Qwen3 (``qk_norm``) or Llama layout."""

    vocabulary: int
    context: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    qk_norm: bool = True
    tie_embeddings: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    @property
    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product for every token, the output layer included."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.depth * (attention + 3 * self.width * self.hidden) + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All trained weights."""
        norms = self.depth * (2 * self.width + (2 * self.head_dim if self.qk_norm else 0)) + self.width
        embedding = 0 if self.tie_embeddings else self.vocabulary * self.width
        return self.matrix_parameters + norms + embedding

    def forward_flops(self, context: int | None = None) -> float:
        """FLOPs of one token's forward pass in a causal sequence of ``context`` tokens (Kaplan et al. 2020, table 1, with the
        output layer and, attention being causal, half of the score matrix)."""
        length = self.context if context is None else context
        return 2 * self.matrix_parameters + 2 * self.depth * length * self.heads * self.head_dim

    @property
    def train_flops(self) -> float:
        """FLOPs per token of forward and backward, the backward pass being twice the forward."""
        return 3 * self.forward_flops()

    def as_dict(self) -> dict[str, int | float | bool]:
        return asdict(self)
