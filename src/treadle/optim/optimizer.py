"""What all optimisers share: groups of named parameters, the clipping before each step, and what a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

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


class Part(NamedTuple):
    """Of a group, those parameters that have a gradient."""

    rule: Rule
    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]
    lr: float
    decay: float


@runtime_checkable
class AtOnce(Rule, Protocol):
    """A rule that may have one kernel for the clipping and the steps of all groups."""

    def step_at_once(self, parts: list[Part], limit: float) -> float | None:
        """As ``Optimizer.update``; None, and nothing is changed, where these have no kernel."""
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

    def part(self) -> Part:
        rows = [(p, p.grad, state) for p, state in zip(self.params, self.states, strict=True) if p.grad is not None]
        params, grads, states = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        return Part(self.rule, params, grads, states, self.lr, self.weight_decay)


class Optimizer:
    """Groups of parameters, each with its rule.

    The kernels are called without ``torch.optim``'s own wrapping, which takes a small network longer than its backward pass.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self.param_groups = [group for group in groups if group.params]
        rules = [group.rule for group in self.param_groups]
        alike = all(rule == rules[0] for rule in rules)
        self.at_once = rules[0] if rules and alike and isinstance(rules[0], AtOnce) else None

    @torch.no_grad()
    def update(self, limit: float | None) -> float:
        """One step with the gradients scaled to a norm of at most ``limit``, which are let go of. Gives their norm before that;
        where it is not finite, the weights stay as they were."""
        parts = [part for group in self.param_groups if (part := group.part()).params]
        norm = self.at_once.step_at_once(parts, limit or math.inf) if self.at_once and parts else None
        if norm is None:
            norm = _clip([grad for part in parts for grad in part.grads], limit)
            if math.isfinite(norm):
                for part in parts:
                    part.rule.step(part.params, part.grads, part.states, part.lr, part.decay)
        if math.isfinite(norm):
            for part in parts:
                for p in part.params:
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
