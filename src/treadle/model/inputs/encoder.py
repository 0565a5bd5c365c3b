"""Token ids as an encoder with open weights reads them. B rows, T positions, D features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal
from treadle.spec.encoder import EncoderShape


class Embeddings(nn.Module):
    """Token, place and text, added and normalised (Devlin et al. 2019, section 3), under their published weight names."""

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        width = shape.hidden_size
        self.word_embeddings = nn.Embedding(shape.vocab_size, width)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, shape.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        """(B, T), (B, T) -> (B, T, D)"""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.word_embeddings(tokens) + self.position_embeddings(places) + self.token_type_embeddings(types)
        y: Tensor = self.dropout(self.LayerNorm(x))
        return y


class EncoderInput(nn.Module):
    """One text (B, T), or a pair (B, T, 2) of token and which text. Raises ``UserError`` where texts may be too long for it."""

    def __init__(self, layout: Layout, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        if layout.length > shape.max_position_embeddings:
            cure = "lower the input's context (of a pair, tokens of each text)"
            message = f"the encoder reads {shape.max_position_embeddings} tokens at most, the input may give {layout.length}"
            raise UserError(message, cure=cure)
        if layout.vocabulary > shape.vocab_size:
            message = f"the tokenizer has {layout.vocabulary} tokens, the encoder knows {shape.vocab_size}"
            raise UserError(message, cure="leave the input's tokenizer out: the encoder's own is read then")
        self.embeddings = Embeddings(shape, dropout)
        self.form = Form(0, shape.hidden_size)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Signal:
        ids, types = (tokens[..., 0], tokens[..., 1]) if tokens.dim() == 3 else (tokens, torch.zeros_like(tokens))
        return Signal(self.embeddings(ids, types), lengths)
