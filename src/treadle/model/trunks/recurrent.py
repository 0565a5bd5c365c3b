"""A recurrent net over all inputs, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

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


def run_net(net: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, T, W), 0 in padding. A CPU reads in the weights' own precision: not every one has a kernel for bf16."""
    if x.device.type != "cpu":
        return _run(net, x, lengths)
    with torch.autocast("cpu", enabled=False):
        return _run(net, x.to(net.all_weights[0][0].dtype), lengths)


def _run(net: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor | None) -> Tensor:
    """No row depends on its padding: for the way back, each is turned around within its own length. This gives what a packed
    sequence gives, for which torch has no fast kernel on a CPU."""
    if lengths is None:
        out: Tensor = net(x)[0]
        return out
    places = torch.arange(x.shape[1], device=x.device)
    real = places < lengths[:, None]
    back = torch.where(real, lengths[:, None] - 1 - places, places)[..., None]
    ways = 2 if net.bidirectional else 1
    for layer in range(net.num_layers):
        x = dropout(x, net.dropout, net.training) if layer else x
        read = _read(net, x, layer * ways)
        if ways == 2:
            turned = _read(net, x.gather(1, back.expand_as(x)), layer * ways + 1)
            read = torch.cat([read, turned.gather(1, back.expand_as(turned))], -1)
        x = read
    return x.masked_fill(~real[..., None], 0.0)


def _read(net: nn.LSTM | nn.GRU, x: Tensor, way: int) -> Tensor:
    """One layer in one direction, from first to last: (B, T, D) -> (B, T, H)."""
    begin, weights = x.new_zeros(1, len(x), net.hidden_size), list[Tensor](net.all_weights[way])
    if isinstance(net, nn.LSTM):
        return torch.lstm(x, (begin, begin), weights, True, 1, 0.0, net.training, False, True)[0]
    return torch.gru(x, begin, weights, True, 1, 0.0, net.training, False, True)[0]


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
