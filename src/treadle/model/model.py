"""Where inputs, trunk and heads meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from treadle.core.batch import IGNORE, Batch
from treadle.model.heads.next_token import NextToken
from treadle.model.inputs.text import TextInput
from treadle.model.layers.apart import Groups, by_length
from treadle.model.layers.attention import LayerCache
from treadle.model.trunks.transformer import Transformer
from treadle.spec.shape import Shape


class LanguageModel(nn.Module):
    """Tokens in, a score per next token out. ``shape`` says all its sizes."""

    def __init__(self, shape: Shape, dropout: float = 0.0, input: str = "text", head: str = "next") -> None:
        super().__init__()
        self.shape, self.dropout, self.input, self.head = shape, dropout, input, head
        self.inputs = nn.ModuleDict({input: TextInput(shape.vocabulary, shape.width)})
        self.trunk = Transformer(shape, dropout)
        self.heads = nn.ModuleDict({head: NextToken(shape.vocabulary, shape.width, shape.tie_embeddings)})

    @property
    def context(self) -> int:
        """Most tokens that it sees at once."""
        return self.shape.context

    @property
    def vocabulary(self) -> int:
        return self.shape.vocabulary

    @property
    def parameter_count(self) -> int:
        return self.shape.parameters

    @property
    def embedding(self) -> nn.Module:
        return self.inputs[self.input].embed_tokens  # type: ignore[return-value]

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, caches: Sequence[LayerCache] | None = None,
        apart: Groups | None = None,
    ) -> Tensor:
        """tokens (B, T) -> (B, T, D), normalised, ready for the head. ``apart``: tokens (1, N) are such documents, whose places are
        ``positions``."""
        features: Tensor = self.trunk(self.inputs[self.input](tokens), positions, caches, apart)
        return features

    def scores(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)"""
        logits: Tensor = self.heads[self.head](hidden, self.embedding)
        return logits

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, V): scores of what follows each position."""
        return self.scores(self.hidden(tokens))

    def terms(self, batch: Batch) -> int:
        """Predicted tokens: what the loss is a mean of."""
        return int((batch.targets[self.head] != IGNORE).sum())

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss in nats per predicted token."""
        asked = batch.targets[self.head] != IGNORE
        return self.weighted_loss(batch, torch.full(asked.shape, 1.0, device=asked.device) / asked.sum().clamp_min(1))

    def weighted_loss(self, batch: Batch, shares: Tensor) -> Tensor:
        """The sum of ``shares`` (B, T) times the loss in nats at each predicted token."""
        head = self.heads[self.head]
        assert isinstance(head, NextToken)
        tokens, targets, places, apart = batch.inputs[self.input], batch.targets[self.head], batch.places.get(self.input), None
        if places is not None:  # all but attention treats each token alone, so they may stand as attention likes it
            order, apart = by_length(places)
            tokens, targets, places, shares = (x.flatten()[order][None] for x in (tokens, targets, places, shares))
        return head.loss(self.hidden(tokens, places, apart=apart), self.embedding, targets, shares)


def make_model(shape: Shape, seed: int, dropout: float = 0.0, input: str = "text", head: str = "next") -> LanguageModel:
    """A model with fresh weights, a pure function of the arguments.

    Matrices are normal with deviation 1/sqrt(fan in); those that write into the residual stream are smaller by sqrt(2 x depth),
    so that its size does not grow with depth (Radford et al. 2019, section 2.3). An embedding has deviation 1, the size that the
    norm after it gives anyway: from a much smaller one, learning starts late (docs/experiments.md). One that is also the output
    layer has that of a matrix.
    """
    model = LanguageModel(shape, dropout, input, head)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        own_embedding = "embed_tokens" in name and not shape.tie_embeddings
        deviation = 1.0 if own_embedding else parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * shape.depth) ** 0.5
        with torch.no_grad():
            parameter.normal_(0.0, deviation, generator=generator)
    return model
