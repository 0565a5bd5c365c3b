"""The gradient noise scale: the batch from which on more examples in a step begin to add little (McCandlish et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

_SHARE = 0.01
"""Of each new estimate in the averages."""
_LEAST = 20
"""Estimates before anything is said."""


@dataclass
class NoiseScale:
    """tr(S) / |G|^2, in examples: S is the covariance of one example's gradient, G the gradient of all data.

    The expected squared norm of the mean gradient of b examples is |G|^2 + tr(S) / b. From that of a part and that of the whole
    batch follow estimates of both without bias (appendix A.1). They are noisy, and the mean of a ratio is not the ratio of means:
    so each is averaged over the steps, exponentially, before they are divided. A checkpoint holds it.
    """

    signal: float = 0.0
    """|G|^2; like ``noise``, from too low a start, which cancels in their ratio."""
    noise: float = 0.0
    """tr(S)."""
    count: int = 0

    def update(self, part: float, rows: int, whole: float, batch: int) -> None:
        """Take in the squared norms of the mean gradients of a part of ``rows`` examples and of the whole of ``batch``."""
        signal = (batch * whole - rows * part) / (batch - rows)
        noise = (part - whole) / (1 / rows - 1 / batch)
        self.signal += _SHARE * (signal - self.signal)
        self.noise += _SHARE * (noise - self.noise)
        self.count += 1

    @property
    def value(self) -> float | None:
        """In examples; None where too little is known."""
        return self.noise / self.signal if self.count >= _LEAST and self.signal > 0 and self.noise > 0 else None
