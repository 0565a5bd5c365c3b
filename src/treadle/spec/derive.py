"""Everything that follows from ``depth``: each value with the reason for it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from treadle.spec.project import ProjectSpec
from treadle.spec.shape import Shape
from treadle.spec.units import Budget, format_count

TOKENS_PER_PARAMETER = 20


@dataclass(frozen=True)
class Derived:
    """A value that the file did not give, or gave, and why it is what it is."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True)
class Resolved:
    """What the run will use: the shape, the training settings, and the reasons."""

    shape: Shape
    learning_rate: float
    batch: int
    budget: Budget
    reasons: tuple[Derived, ...]

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.shape.context


def derive(spec: ProjectSpec) -> Resolved:
    """Fill in what ``spec`` leaves open. Raises ``ValueError`` where given values contradict each other."""
    trunk, text, train = spec.model.trunk.transformer, spec.model.text, spec.train
    assert trunk is not None
    reasons: list[Derived] = []

    def pick(key: str, given: object, value: object, reason: str) -> object:
        reasons.append(Derived(key, value if given is None else given, reason if given is None else "given"))
        return reasons[-1].value

    width = int(pick("width", trunk.width, 64 * trunk.depth, f"64 x depth {trunk.depth}"))  # type: ignore[call-overload]
    heads = int(pick("heads", trunk.heads, max(1, width // 64), "one head per 64 features"))  # type: ignore[call-overload]
    if width % heads or (width // heads) % 2:
        raise ValueError(f"width {width} is not an even multiple of heads {heads}")
    groups = max(d for d in range(1, heads + 1) if heads % d == 0 and d <= max(1, heads // 3 + 1))
    kv_heads = int(pick("kv_heads", trunk.kv_heads, groups, "a divisor of heads near a third: a smaller cache"))  # type: ignore[call-overload]
    if heads % kv_heads:
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
    hidden = int(pick("hidden", trunk.hidden, -(-8 * width // 96) * 32, "8/3 of the width, a multiple of 32"))  # type: ignore[call-overload]
    shape = Shape(
        vocabulary=text.tokenizer.bpe, context=text.context, depth=trunk.depth, width=width, heads=heads, kv_heads=kv_heads,
        head_dim=width // heads, hidden=hidden, qk_norm=trunk.qk_norm, tie_embeddings=trunk.tie_embeddings,
        rope_theta=trunk.rope_theta, norm_eps=trunk.norm_eps,
    )
    rate = round(0.004 * (256 / width) ** 0.5, 6)
    rate = float(pick("learning_rate", train.learning_rate, rate, "0.004 at width 256, falling with its root"))  # type: ignore[arg-type]
    tokens = 2048 * 2 ** max(0, (trunk.depth - 1) // 4)
    batch = int(pick("batch", train.batch, max(1, tokens // shape.context), f"{format_count(tokens)} tokens a step at this depth"))  # type: ignore[call-overload]
    horizon = Budget(TOKENS_PER_PARAMETER * shape.parameters, "tokens")
    budget = pick("budget", train.budget, horizon, f"{TOKENS_PER_PARAMETER} tokens per parameter (Hoffmann et al. 2022)")
    assert isinstance(budget, Budget)
    if batch % train.accumulate:
        raise ValueError(f"batch {batch} is not a multiple of accumulate {train.accumulate}")
    return Resolved(shape, rate, batch, budget, tuple(reasons))
