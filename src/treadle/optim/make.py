"""The optimiser that settings ask for, over named parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from treadle.core.errors import UserError
from treadle.optim import matrices, rules
from treadle.optim.eight_bits import EightBits
from treadle.optim.optimizer import Group, Optimizer, Rule
from treadle.spec import optimizers as spec
from treadle.spec.train import Train

TRUNK = "trunk."


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: Train, learning_rate: float, scales: Mapping[str, float] | None = None
) -> Optimizer:
    """Weight decay on matrices; none on gains and biases, whose size is not a matter of capacity, and nothing at all of the frozen.

    ``scales``: name -> what the rate of that parameter is multiplied by, 1 where it is not named. Muon is for the matrices between
    inputs and outputs, whose names begin with ``TRUNK``. Parameters of a group without a rate are frozen. Raises ``UserError`` for
    a group that counts for no parameter.
    """
    usual, special = _rules(settings.optimizer)
    named, used = list(parameters), set()
    found: dict[tuple[float, float, bool], dict[str, nn.Parameter]] = {}
    for name, p in named:
        pattern = next((pattern for pattern in settings.groups if fnmatchcase(name, pattern)), None)
        scale, decay = (scales or {}).get(name, 1.0), settings.weight_decay if p.dim() >= 2 else 0.0
        if pattern is not None:
            own = settings.groups[pattern]
            scale, decay = scale * own.rate, decay if own.weight_decay is None else own.weight_decay
            used.add(pattern)
        p.requires_grad_(p.requires_grad and scale > 0)
        if p.requires_grad:
            found.setdefault((scale, decay, special is not usual and name.startswith(TRUNK) and p.dim() >= 2), {})[name] = p
    for pattern in settings.groups:
        if pattern not in used:
            some = ", ".join(repr(name) for name, _ in [*named[:3], named[-1]])
            cure = f"names are like {some}; of several patterns that match, the first counts"
            raise UserError(f"train.groups: {pattern!r} counts for no parameter", cure=cure)
    ordered = sorted(found.items(), key=lambda item: (-item[0][0], -item[0][1], item[0][2]))
    return Optimizer(
        Group(list(ps.values()), special if hidden else usual, decay, learning_rate * scale, scale, list(ps))
        for (scale, decay, hidden), ps in ordered
    )


def _rules(settings: spec.Optimizer) -> tuple[Rule, Rule]:
    """For most parameters, and for hidden matrices."""
    s = settings.settings
    match s:
        case spec.Sgd():
            rule: Rule = rules.Sgd(s.momentum, s.nesterov)
        case spec.Adagrad():
            rule = rules.Adagrad(s.eps)
        case spec.Rmsprop():
            rule = rules.Rmsprop(s.alpha, s.momentum, s.eps)
        case spec.Adam():
            rule = rules.Adam(s.betas, s.eps, decoupled=isinstance(s, spec.Adamw))
        case spec.Adafactor():
            rule = matrices.Adafactor(s.decay, s.clip)
        case spec.Lion():
            rule = rules.Lion(s.betas)
        case spec.ScheduleFree():
            rule = rules.ScheduleFree(s.betas, s.eps)
        case spec.Muon():
            return rules.Adam(s.betas), matrices.Muon(s.momentum, s.nesterov)
        case _:
            raise AssertionError(f"no rule for {settings.kind}")
    if getattr(s, "bits", 32) == 8:
        rule = EightBits(rule)
    return rule, rule
