"""Everything that follows from ``depth``: each value with the reason for it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from treadle.spec.project import ProjectSpec
from treadle.spec.shape import Shape
from treadle.spec.units import Budget, format_count

TOKENS_PER_PARAMETER = 20

T = TypeVar("T")


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


class Contradiction(ValueError):
    """Given values that cannot all hold; ``findings`` are (location of a key in the file, what is wrong)."""

    def __init__(self, findings: list[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(message for _, message in findings))
        self.findings = findings


def derive(spec: ProjectSpec) -> Resolved:
    """Fill in what ``spec`` leaves open. Raises ``Contradiction`` where given values cannot all hold."""
    trunk, text, train = spec.model.trunk.transformer, spec.model.text, spec.train
    assert trunk is not None
    reasons: list[Derived] = []

    def pick(key: str, given: T | None, value: T, reason: str) -> T:
        chosen, why = (value, reason) if given is None else (given, "given")
        reasons.append(Derived(key, chosen, why))
        return chosen

    width = pick("width", trunk.width, 64 * trunk.depth, f"64 x depth {trunk.depth}")
    heads = pick("heads", trunk.heads, _heads(width), "the divisor of the width nearest to one head per 64 features")
    third = max(d for d in range(1, heads + 1) if heads % d == 0 and d <= heads // 3 + 1)
    kv_heads = pick("kv_heads", trunk.kv_heads, third, "a divisor of heads near a third: a smaller cache")
    hidden = pick("hidden", trunk.hidden, -(-8 * width // 96) * 32, "8/3 of the width, a multiple of 32")
    shape = Shape(
        vocabulary=text.tokenizer.bpe, context=text.context, depth=trunk.depth, width=width, heads=heads, kv_heads=kv_heads,
        head_dim=width // heads, hidden=hidden, qk_norm=trunk.qk_norm, tie_embeddings=trunk.tie_embeddings,
        rope_theta=trunk.rope_theta, norm_eps=trunk.norm_eps,
    )
    rate = round(0.006 * (256 / width) ** 0.5, 6)
    rate = pick("learning_rate", train.learning_rate, rate, "0.006 at width 256, falling with its root")
    tokens = 512 * 2 ** min(8, (trunk.depth + 1) // 2)
    parts = -(-max(1, tokens // shape.context) // train.accumulate)
    batch = pick("batch", train.batch, parts * train.accumulate, f"{format_count(tokens)} tokens a step at this depth")
    horizon = Budget(TOKENS_PER_PARAMETER * shape.parameters, "tokens")
    budget = pick("budget", train.budget, horizon, f"{TOKENS_PER_PARAMETER} tokens per parameter (Hoffmann et al. 2022)")
    if findings := _contradictions(shape, batch, train.accumulate):
        raise Contradiction(findings)
    return Resolved(shape, rate, batch, budget, tuple(reasons))


def _heads(width: int) -> int:
    """The largest number of heads, at most one per 64 features, that gives each an even number of them (rotary pairs)."""
    return max((h for h in range(1, max(1, width // 64) + 1) if width % h == 0 and (width // h) % 2 == 0), default=1)


def _contradictions(shape: Shape, batch: int, accumulate: int) -> list[tuple[tuple[str, ...], str]]:
    at = ("model", "trunk", "transformer")
    found: list[tuple[tuple[str, ...], str]] = []
    if shape.width % shape.heads or shape.head_dim % 2:
        found.append(((*at, "width"), f"width {shape.width} is not an even multiple of heads {shape.heads}"))
    if shape.heads % shape.kv_heads:
        found.append(((*at, "kv_heads"), f"heads {shape.heads} is not a multiple of kv_heads {shape.kv_heads}"))
    if batch % accumulate:
        found.append((("train", "batch"), f"batch {batch} is not a multiple of accumulate {accumulate}"))
    return found
