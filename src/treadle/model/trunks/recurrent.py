"""A recurrent net over all inputs, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from treadle.model.layers.signal import Form, Signal, join_signals
from treadle.spec.trunks import Recurrent

States = tuple[Tensor, ...]
CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def make_net(settings: Recurrent, width: int) -> nn.LSTM | nn.GRU:
    """The LSTM or GRU that ``settings`` asks for, over ``width`` features."""
    return CELLS[settings.cell](
        width, settings.width, settings.depth, batch_first=True, bidirectional=settings.directions == 2,
        dropout=settings.dropout if settings.depth > 1 else 0.0,
    )


def run_net(net: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, T, W). Padding is not read: in the backward direction it would be read first."""
    if lengths is None:
        out: Tensor = net(x)[0]
        return out
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    read: Tensor = pad_packed_sequence(net(packed)[0], batch_first=True, total_length=x.shape[1])[0]
    return read


class RecurrentTrunk(nn.Module):
    """LSTM or GRU."""

    def __init__(self, settings: Recurrent, forms: Sequence[Form]) -> None:
        super().__init__()
        self.bring = nn.ModuleList(
            nn.Identity() if form.width == settings.embedding else nn.Linear(form.width, settings.embedding) for form in forms
        )
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.net = make_net(settings, settings.embedding)
        self.form = Form(0, settings.width * settings.directions)

    def forward(self, parts: Sequence[Signal]) -> Signal:
        """Signals of all inputs -> (B, T, D); a row is summed up by the largest value of each feature over its positions."""
        brought = [Signal(bring(part.features), part.lengths) for bring, part in zip(self.bring, parts, strict=True)]
        joined = join_signals(brought)
        lengths = joined.lengths
        out = self.dropout(run_net(self.net, self.dropout(joined.features), lengths))
        signal = Signal(out, lengths)
        mask = signal.mask()
        pooled = (out if mask is None else out.masked_fill(~mask[..., None], float("-inf"))).amax(1)
        return Signal(out, lengths, pooled)

    def blank(self, rows: int) -> States:
        """The state before anything is read: (layers, rows, width), of hidden features and for an LSTM of cells."""
        size = (self.settings.depth, rows, self.settings.width)
        return tuple(torch.zeros(size) for _ in range(2 if self.settings.cell == "lstm" else 1))

    def carry(self, part: Signal, states: States) -> tuple[Signal, States]:
        """Read on from ``states``: of one input, without padding and in one direction."""
        lstm = self.settings.cell == "lstm"
        out, after = self.net(self.bring[0](part.features), states if lstm else states[0])
        return Signal(out), after if lstm else (after,)
