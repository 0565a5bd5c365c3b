"""What an optimiser remembers, held in 8 bits between two steps (Dettmers et al. 2022). K blocks of ``STATE_BLOCK`` numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.optim.optimizer import Rule, State
from treadle.spec.optimizers import STATE_BLOCK

SMALL = 4096
"""Numbers of a parameter below which its state stays as it is: it is little, and often of gains and biases. As in the authors'
bitsandbytes."""
_AT_ONCE = 2048
"""Blocks that are computed at once: 2 MB in float32. Of fewer, calls would take longer than numbers."""
_SCALE = "_scale"
_NEVER_NEGATIVE = ("exp_avg_sq",)
_TINY = 1e-36


@dataclass(frozen=True)
class EightBits:
    """``rule``, which treats every number alone. Between two steps what it remembers of a parameter that is not small is codes and,
    of each block of them, the largest absolute value, by which all are relative; a step is computed in full precision."""

    rule: Rule

    def begin(self, p: Tensor) -> State:
        state = self.rule.begin(p)
        if p.numel() < SMALL:
            return state
        blocks, packed = -(-p.numel() // STATE_BLOCK), State()
        for name, tensor in state.items():
            if tensor.shape != p.shape:
                packed[name] = tensor
                continue
            kind = torch.uint8 if name in _NEVER_NEGATIVE else torch.int8
            packed[name] = torch.zeros(blocks, STATE_BLOCK, dtype=kind, device=p.device)
            packed[name + _SCALE] = p.new_zeros(blocks, 1)
        return packed

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        rows = list(zip(params, grads, states, strict=True))
        small = [row for row in rows if row[0].numel() < SMALL]
        if small:
            few, their_grads, their_states = (list(column) for column in zip(*small, strict=True))
            self.rule.step(few, their_grads, their_states, lr, decay)
        for p, g, state in rows:
            if p.numel() >= SMALL:
                self._part_by_part(p.view(-1), g.reshape(-1), state, lr, decay)

    def _part_by_part(self, p: Tensor, g: Tensor, state: State, lr: float, decay: float) -> None:
        packed = [name for name in state if name + _SCALE in state]
        alone = [name for name in state if name not in packed and name.removesuffix(_SCALE) not in packed]
        blocks = -(-len(p) // STATE_BLOCK)
        for first in range(0, blocks, _AT_ONCE):
            some, at = slice(first, first + _AT_ONCE), slice(first * STATE_BLOCK, (first + _AT_ONCE) * STATE_BLOCK)
            part = p[at]
            whole = {name: unpack(state[name][some], state[name + _SCALE][some]) for name in packed}
            now = {name: tensor.view(-1)[: len(part)] for name, tensor in whole.items()}  # the last block's rest stays 0
            now |= {name: state[name].clone() for name in alone}
            self.rule.step([part], [g[at]], [now], lr, decay)
            for name, tensor in whole.items():
                pack(tensor, state[name][some], state[name + _SCALE][some])
        for name in alone:  # once for all parts
            state[name].copy_(now[name])


def pack(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    """Numbers (K, N) -> ``codes`` (K, N) and ``scale`` (K, 1), in place.

    A signed code is the root of a number's share of the block's largest, times 127; an unsigned one, of what is never negative, the
    fourth root, times 255. So small numbers are told apart, as they are by the paper's dynamic codes, without a search in a table;
    and a mean square that is lost as 0 belongs to a mean that is lost too, so that no step is divided by nothing
    (docs/experiments.md).
    """
    if codes.dtype == torch.int8:
        size = x.abs()
        torch.amax(size, 1, keepdim=True, out=scale)
        found = size.sqrt_().mul_(127 * scale.clamp(min=_TINY).rsqrt_()).round_().copysign_(x)
    else:
        torch.amax(x, 1, keepdim=True, out=scale)
        found = x.sqrt().sqrt_().mul_(255 * scale.clamp(min=_TINY).rsqrt_().sqrt_()).round_()
    codes.copy_(found)


def unpack(codes: Tensor, scale: Tensor) -> Tensor:
    """The numbers (K, N) that ``pack`` was given, as far as the codes tell."""
    if codes.dtype == torch.int8:
        root = codes * (scale.sqrt() / 127)
        return root.mul_(root.abs())
    return (codes * (scale.sqrt().sqrt_() / 255)).square_().square_()
