"""Rules that treat every number of a parameter alone: SGD, AdaGrad, RMSprop, Adam, AdamW, Lion, schedule-free AdamW.

Weight decay is part of the gradient (L2) in SGD, AdaGrad, RMSprop and Adam, as in their papers and in torch; in the others it is
decoupled (Loshchilov and Hutter 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from treadle.core.compiled import kernels_for_all
from treadle.optim.optimizer import Part, State

Betas = tuple[float, float]


def _column(states: list[State], name: str) -> list[Tensor]:
    return [state[name] for state in states]


def _with_decay(params: list[Tensor], grads: list[Tensor], decay: float) -> list[Tensor]:
    """Gradients of the loss and of ``decay / 2`` times the sum of squares."""
    return list(torch._foreach_add(grads, params, alpha=decay)) if decay else grads


@dataclass(frozen=True)
class Sgd:
    """v = momentum v + g; w -= lr v, or with ``nesterov`` lr (g + momentum v) (Sutskever et al. 2013, as torch writes it)."""

    momentum: float = 0.9
    nesterov: bool = False

    def begin(self, p: Tensor) -> State:
        return {"momentum": torch.zeros_like(p)} if self.momentum else {}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        torch._fused_sgd_(
            params, grads, _column(states, "momentum") if self.momentum else [], weight_decay=decay, momentum=self.momentum, lr=lr,
            dampening=0.0, nesterov=self.nesterov, maximize=False, is_first_step=False,
        )


@dataclass(frozen=True)
class Adagrad:
    """s += g^2; w -= lr g / (sqrt(s) + eps) (Duchi et al. 2011)."""

    eps: float = 1e-10

    def begin(self, p: Tensor) -> State:
        return {"sum": torch.zeros_like(p)}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        grads, sums = _with_decay(params, grads, decay), _column(states, "sum")
        torch._foreach_addcmul_(sums, grads, grads)
        _divide(params, grads, sums, lr, self.eps)


@dataclass(frozen=True)
class Rmsprop:
    """s = alpha s + (1 - alpha) g^2; w -= lr g / (sqrt(s) + eps), or with ``momentum`` its running sum (Tieleman and Hinton
    2012)."""

    alpha: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8

    def begin(self, p: Tensor) -> State:
        return {"square": torch.zeros_like(p)} | ({"momentum": torch.zeros_like(p)} if self.momentum else {})

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        grads, squares = _with_decay(params, grads, decay), _column(states, "square")
        torch._foreach_mul_(squares, self.alpha)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - self.alpha)
        if not self.momentum:
            _divide(params, grads, squares, lr, self.eps)
            return
        sums = _column(states, "momentum")
        torch._foreach_mul_(sums, self.momentum)
        _divide(sums, grads, squares, -1.0, self.eps)
        torch._foreach_add_(params, sums, alpha=-lr)


def _divide(into: list[Tensor], grads: list[Tensor], squares: list[Tensor], lr: float, eps: float) -> None:
    """into -= lr grads / (sqrt(squares) + eps)"""
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(into, grads, roots, value=-lr)


@dataclass(frozen=True)
class Adam:
    """Running means of g and g^2, each without its bias toward 0 (Kingma and Ba 2015, algorithm 1); with ``decoupled`` weight decay
    AdamW (Loshchilov and Hutter 2019, algorithm 2). One kernel updates all weights in one pass over memory; in one thread AdamW's
    is compiled for the processor, and clips too."""

    betas: Betas = (0.9, 0.95)
    eps: float = 1e-8
    decoupled: bool = True

    def begin(self, p: Tensor) -> State:
        return {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        steps = _column(states, "step")
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            params, grads, _column(states, "exp_avg"), _column(states, "exp_avg_sq"), [], steps, amsgrad=False, lr=lr,
            beta1=self.betas[0], beta2=self.betas[1], weight_decay=decay, eps=self.eps, maximize=False,
        )


    def step_at_once(self, parts: list[Part], limit: float) -> float | None:
        params = [p for part in parts for p in part.params]
        grads = [g for part in parts for g in part.grads]
        run = kernels_for_all(params, grads) if self.decoupled else None
        if run is None:
            return None
        states = [state for part in parts for state in part.states]
        kept = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
        rates = [part.lr for part in parts for _ in part.params]
        decays = [part.decay for part in parts for _ in part.params]
        norm = torch.empty(1, dtype=torch.float64)
        sizes, settings = [p.numel() for p in params], [*self.betas, self.eps, limit]
        run("adamw", torch.float32, len(params), sizes, params, grads, *kept, rates, decays, settings, norm)
        return norm.item()


@dataclass(frozen=True)
class Lion:
    """w -= lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g (Chen et al. 2023, algorithm 2)."""

    betas: Betas = (0.9, 0.99)

    def begin(self, p: Tensor) -> State:
        return {"exp_avg": torch.zeros_like(p)}

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        means = _column(states, "exp_avg")
        ways = torch._foreach_lerp(means, grads, 1 - self.betas[0])
        torch._foreach_sign_(ways)
        torch._foreach_mul_(params, 1 - lr * decay)
        torch._foreach_add_(params, ways, alpha=-lr)
        torch._foreach_lerp_(means, grads, 1 - self.betas[1])


@dataclass(frozen=True)
class ScheduleFree:
    """AdamW that needs no decay of its rate: gradients are taken at y = (1 - b1) z + b1 x, steps are made by z, and x, the mean of
    all z so far weighed by their rates squared, is the model (Defazio et al. 2024, algorithm 1). The parameters are y in training;
    ``final`` gives x."""

    betas: Betas = (0.9, 0.999)
    eps: float = 1e-8

    def begin(self, p: Tensor) -> State:
        scalars = {name: torch.zeros((), dtype=torch.float64) for name in ("step", "weight", "top")}
        return {"z": p.clone(), "exp_avg_sq": torch.zeros_like(p)} | scalars

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        one, two = self.betas
        for p, g, state in zip(params, grads, states, strict=True):
            state["step"] += 1
            state["top"].clamp_(min=lr)
            weight = float(state["top"]) ** 2
            state["weight"] += weight
            share = weight / float(state["weight"]) if weight else 1.0
            square = state["exp_avg_sq"].mul_(two).addcmul_(g, g, value=1 - two)
            root = (square / (1 - two ** float(state["step"]))).sqrt_().add_(self.eps)
            way = (g / root).add_(p, alpha=decay)
            p.lerp_(state["z"], share).add_(way, alpha=lr * (one * (1 - share) - 1))
            state["z"].sub_(way, alpha=lr)

    def final(self, p: Tensor, state: State) -> Tensor:
        """x, from y and z."""
        return torch.lerp(p, state["z"], 1 - 1 / self.betas[0])
