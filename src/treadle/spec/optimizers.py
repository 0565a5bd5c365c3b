"""``train.optimizer:`` how gradients change weights. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from treadle.spec.fields import Section
from treadle.spec.kinds import OneOf

Rate = Annotated[float, Field(strict=True, ge=0, lt=1)]
Betas = Annotated[tuple[Rate, Rate], Field(strict=False)]
Small = Annotated[float, Field(gt=0, lt=1)]
Bits = Literal[8, 32]
STATE_BLOCK = 256
"""Numbers that share a scale where they are held in 8 bits."""


class Sgd(Section):
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013)."""

    momentum: Rate = 0.9
    """Share of the last step that goes into the next; 0: none."""
    nesterov: bool = False
    """Look ahead by the momentum before the step."""
    bits: Bits = 32
    """Of each number that it remembers; 8: block by block (Dettmers et al. 2022), of parameters of 4,096 numbers and more."""

    @model_validator(mode="after")
    def _something_to_hold(self) -> Sgd:
        if self.bits == 8 and not self.momentum:
            cure = "leave out 'bits': without momentum nothing is remembered"
            raise PydanticCustomError("bits", "8 bits of nothing: 'momentum' is 0", {"cure": cure})
        return self


class Adagrad(Section):
    """Rates that fall with the sum of squared gradients (Duchi et al. 2011)."""

    eps: Small = 1e-10
    """Added to its root."""


class Rmsprop(Section):
    """Rates by the running mean of squared gradients (Tieleman and Hinton 2012)."""

    alpha: Rate = 0.99
    """How slowly that mean forgets."""
    momentum: Rate = 0.0
    """Share of the last step that goes into the next; 0: none."""
    eps: Small = 1e-8
    """Added to its root."""


class Adam(Section):
    """Running means of the gradient and of its square; weight decay is part of the gradient (Kingma and Ba 2015)."""

    betas: Betas = (0.9, 0.95)
    """Averaging of the gradient and of its square."""
    eps: Small = 1e-8
    """Added to the root."""
    bits: Bits = 32
    """Of each number that it remembers; 8: block by block (Dettmers et al. 2022), of parameters of 4,096 numbers and more."""


class Adamw(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""


class Adafactor(Section):
    """Squared gradients kept by row and column, rates relative to each matrix's size: little memory (Shazeer and Stern 2018)."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """How fast the averaging of squares slows down."""
    clip: float = Field(default=1.0, gt=0)
    """Largest root mean square of a step before the rate."""


class Lion(Section):
    """The sign of the running mean (Chen et al. 2023): rates are a tenth of AdamW's, weight decay ten times as large."""

    betas: Betas = (0.9, 0.99)
    """Averaging of the gradient for the step, and for what is remembered."""
    bits: Bits = 32
    """Of each number that it remembers; 8: block by block (Dettmers et al. 2022), of parameters of 4,096 numbers and more."""


class Muon(Section):
    """Orthogonal steps of the trunk's matrices (Jordan et al. 2024), with AdamW for all else."""

    momentum: Rate = 0.95
    """Averaging of the gradient."""
    nesterov: bool = True
    """Look ahead by the momentum before the step."""
    betas: Betas = (0.9, 0.95)
    """AdamW's, for all else."""


class ScheduleFree(Section):
    """AdamW that averages its weights instead of lowering its rate (Defazio et al. 2024): give ``schedule: constant``."""

    betas: Betas = (0.9, 0.999)
    """Between the average and the last weights where gradients are taken; averaging of the squares."""
    eps: Small = 1e-8
    """Added to the root."""


class Optimizer(OneOf):
    """How gradients change weights: one of these."""

    what: ClassVar[str] = "optimiser"
    example: ClassVar[str] = "optimizer: adamw"

    adamw: Adamw | None = None
    adam: Adam | None = None
    sgd: Sgd | None = None
    adagrad: Adagrad | None = None
    rmsprop: Rmsprop | None = None
    adafactor: Adafactor | None = None
    lion: Lion | None = None
    muon: Muon | None = None
    schedule_free: ScheduleFree | None = None

    @property
    def rate(self) -> float:
        """A good rate, as a share of AdamW's."""
        return {"sgd": 10.0, "adagrad": 3.0, "rmsprop": 0.3, "adafactor": 3.0, "lion": 0.1, "muon": 2.0}.get(self.kind, 1.0)

    @property
    def copies(self) -> float:
        """What it remembers of each weight, in numbers of 32 bits."""
        momentum = bool(getattr(self.settings, "momentum", False))
        count = {"adafactor": 0, "sgd": momentum, "adagrad": 1, "lion": 1, "rmsprop": 1 + momentum}.get(self.kind, 2)
        return count * (8 / 32 + 1 / STATE_BLOCK) if getattr(self.settings, "bits", 32) == 8 else count
