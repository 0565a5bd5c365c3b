"""The factor that keeps fp16 gradients from vanishing."""

from __future__ import annotations

from dataclasses import dataclass

_GROWS_AFTER = 2000
"""Steps in a row without an overflow."""


@dataclass
class LossScale:
    """What the loss is multiplied by before the backward pass, and the gradients are divided by after it: below 6e-8, fp16 is 0
    (Micikevicius et al. 2018, section 3.2). It is halved when gradients overflow, and tried doubled after ``_GROWS_AFTER`` steps.
    A checkpoint holds it."""

    value: float = 65536.0
    calm: int = 0
    """Steps in a row without an overflow."""
    left_out: int = 0
    """Steps whose gradients overflowed, and changed no weight."""

    def went_well(self) -> None:
        """Take in a step whose gradients were finite."""
        self.calm += 1
        if self.calm == _GROWS_AFTER:
            self.value, self.calm = 2 * self.value, 0

    def overflowed(self) -> bool:
        """Take in a step whose gradients were not; False where nothing is multiplied any more, so that something else is wrong."""
        if self.value <= 1:
            return False
        self.value, self.calm, self.left_out = self.value / 2, 0, self.left_out + 1
        return True
