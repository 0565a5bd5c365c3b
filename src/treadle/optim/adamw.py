"""AdamW over named parameters, with the clipping of the gradients that comes before each of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Group:
    """Parameters that are treated alike, and what is remembered of them: steps done, running means of g and of g squared."""

    params: list[nn.Parameter]
    weight_decay: float
    lr: float
    lr_scale: float = 1.0
    """What the run's rate is multiplied by."""

    def __post_init__(self) -> None:
        self.steps = [torch.zeros((), device=p.device) for p in self.params]
        self.means = [torch.zeros_like(p) for p in self.params]
        self.squares = [torch.zeros_like(p) for p in self.params]


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    One kernel updates all weights of a group in one pass over memory. It is called without ``torch.optim``'s own wrapping, which
    takes a small network longer than its backward pass.
    """

    def __init__(self, groups: Iterable[Group], betas: tuple[float, float], eps: float = 1e-8) -> None:
        self.param_groups = [group for group in groups if group.params]
        self.betas, self.eps = betas, eps

    @torch.no_grad()
    def update(self, limit: float | None) -> float:
        """One step with the gradients scaled to a norm of at most ``limit``, which are let go of. Gives their norm before that;
        where it is not finite, the weights stay as they were."""
        ready = [p for group in self.param_groups for p in group.params if p.grad is not None]
        norm = _clip([p.grad for p in ready if p.grad is not None], limit)
        if math.isfinite(norm):
            for group in self.param_groups:
                self._step(group)
            for p in ready:
                p.grad = None
        return norm

    def _step(self, group: Group) -> None:
        rows = [row for row in zip(group.params, group.means, group.squares, group.steps, strict=True) if row[0].grad is not None]
        if not rows:
            return
        params, means, squares, steps = (list(column) for column in zip(*rows, strict=True))
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params, [p.grad for p in params], means, squares, [], steps, amsgrad=False, lr=group.lr, beta1=self.betas[0],
            beta2=self.betas[1], weight_decay=group.weight_decay, eps=self.eps, maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on but the weights and the settings."""
        return {f"{at}.{name}": tensor for at, row in enumerate(self._rows()) for name, tensor in row.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` once gave."""
        for at, row in enumerate(self._rows()):
            for name, tensor in row.items():
                tensor.copy_(tensors[f"{at}.{name}"])

    def _rows(self) -> list[dict[str, Tensor]]:
        return [
            {"step": step, "exp_avg": mean, "exp_avg_sq": square}
            for group in self.param_groups for step, mean, square in zip(group.steps, group.means, group.squares, strict=True)
        ]


def make_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, betas: tuple[float, float], weight_decay: float,
    scales: Mapping[str, float] | None = None,
) -> AdamW:
    """Weight decay on matrices; none on gains and biases, whose size is not a matter of capacity, and nothing at all of the frozen.
    ``scales``: name -> what the rate of that parameter is multiplied by, 1 where it is not named."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in parameters:
        if p.requires_grad:
            found.setdefault(((scales or {}).get(name, 1.0), p.dim() >= 2), []).append(p)
    ordered = sorted(found.items(), key=lambda item: (-item[0][0], not item[0][1]))
    return AdamW([Group(ps, weight_decay * matrix, learning_rate * scale, scale) for (scale, matrix), ps in ordered], betas)


def _clip(gradients: list[Tensor], limit: float | None) -> float:
    """Scale ``gradients`` together to a norm of at most ``limit``, in place (Pascanu et al. 2013); their norm before that."""
    if not gradients:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    found = float(norm)
    if limit is not None and limit < found < math.inf:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return found
