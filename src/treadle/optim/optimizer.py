"""What all optimisers share: groups of named parameters, the clipping before each step, and what a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""What is remembered of one parameter from step to step, by name."""


class Rule(Protocol):
    """How one step changes parameters. A rule remembers nothing itself: all that it needs is in the states."""

    def begin(self, p: Tensor) -> State:
        """The state before the first step."""
        ...

    def step(self, params: list[Tensor], grads: list[Tensor], states: list[State], lr: float, decay: float) -> None:
        """Change ``params`` and ``states`` in place, at the rate ``lr`` and with the weight decay ``decay``."""
        ...


@runtime_checkable
class Finishing(Rule, Protocol):
    """A rule that trains by other weights than it is for."""

    def final(self, p: Tensor, state: State) -> Tensor:
        """The value for use of a parameter that is ``p`` in training."""
        ...


@dataclass
class Group:
    """Parameters that are treated alike."""

    params: list[nn.Parameter]
    rule: Rule
    weight_decay: float
    lr: float
    lr_scale: float = 1.0
    """What the run's rate is multiplied by."""
    names: Sequence[str] = ()
    """Of the parameters, for what is kept of them; none: they are numbered."""
    states: list[State] = field(init=False)

    def __post_init__(self) -> None:
        self.states = [self.rule.begin(p.detach()) for p in self.params]


class Optimizer:
    """Groups of parameters, each with its rule.

    The kernels are called without ``torch.optim``'s own wrapping, which takes a small network longer than its backward pass.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self.param_groups = [group for group in groups if group.params]

    @torch.no_grad()
    def update(self, limit: float | None) -> float:
        """One step with the gradients scaled to a norm of at most ``limit``, which are let go of. Gives their norm before that;
        where it is not finite, the weights stay as they were."""
        ready = [p for group in self.param_groups for p in group.params if p.grad is not None]
        norm = _clip([p.grad for p in ready if p.grad is not None], limit)
        if math.isfinite(norm):
            for group in self.param_groups:
                rows = [(p, p.grad, state) for p, state in zip(group.params, group.states, strict=True) if p.grad is not None]
                if rows:
                    params, grads, states = (list(column) for column in zip(*rows, strict=True))
                    group.rule.step(params, grads, states, group.lr, group.weight_decay)
            for p in ready:
                p.grad = None
        return norm

    def final(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters whose value for use is another than that in training, and that value."""
        pairs = [(group.rule, p, state) for group in self.param_groups for p, state in zip(group.params, group.states, strict=True)]
        return [(p.detach(), rule.final(p.detach(), state)) for rule, p, state in pairs if isinstance(rule, Finishing)]

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on but the weights and the settings."""
        return {f"{of}.{name}": tensor for of, state in self._states() for name, tensor in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` once gave."""
        for of, state in self._states():
            for name, tensor in state.items():
                tensor.copy_(tensors[f"{of}.{name}"])

    def _states(self) -> Iterator[tuple[str, State]]:
        """Each parameter's name, or number, and what is remembered of it."""
        number = 0
        for group in self.param_groups:
            for place, state in enumerate(group.states):
                yield group.names[place] if group.names else str(number), state
                number += 1


def _clip(gradients: list[Tensor], limit: float | None) -> float:
    """Scale ``gradients`` together to a norm of at most ``limit``, in place (Pascanu et al. 2013); their norm before that."""
    if not gradients:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    found = float(norm)
    if limit is not None and limit < found < math.inf:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return found
