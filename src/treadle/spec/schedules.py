"""``train.schedule:`` the rate over the course of a run, and ``train.average:`` the weights that it is for. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.spec.fields import Fraction, Section
from treadle.spec.kinds import OneOf

Factor = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[Fraction, Field(gt=0)]


class Linear(Section):
    """Down in a straight line after the warm-up."""


class Cosine(Section):
    """Down along half a cosine after the warm-up (Loshchilov and Hutter 2017, equation 5)."""


class Constant(Section):
    """The peak to the end."""


class Steps(Section):
    """Down by a factor, again and again."""

    every: Share = 0.3
    """Share of the budget between two falls."""
    factor: Factor = 0.1
    """What the rate is multiplied by at each."""


class OneCycle(Section):
    """Up from a low rate and down to a still lower one, along cosines (Smith and Topin 2019). It brings its own warm-up and end."""

    rise: Fraction = 0.3
    """Share of the budget in which it rises."""
    start: Fraction = 0.04
    """First rate, as a share of the peak."""
    end: Fraction = 4e-6
    """Last rate, as a share of the peak."""


class Stable(Section):
    """The peak for most of the run, then down: a run can be extended from before its fall (Hu et al. 2024; Hägele et al. 2024)."""

    fall: Share = 0.2
    """Share of the budget in which it falls."""
    shape: Literal["linear", "cosine", "root"] = "root"
    """Of the fall; root: 1 - sqrt(t), which was found best."""


class Plateau(Section):
    """Down by a factor each time that validation stops getting better."""

    factor: Factor = 0.5
    """What the rate is multiplied by."""
    patience: int = Field(default=2, ge=1)
    """Validations without a better loss before it falls."""


class Schedule(OneOf):
    """The rate over the course of a run: one of these."""

    what: ClassVar[str] = "schedule"
    example: ClassVar[str] = "schedule: cosine"

    linear: Linear | None = None
    cosine: Cosine | None = None
    constant: Constant | None = None
    steps: Steps | None = None
    one_cycle: OneCycle | None = None
    stable: Stable | None = None
    plateau: Plateau | None = None


class Ema(Section):
    """A running mean of the weights (Polyak and Juditsky 1992), which forgets faster at the beginning of a run."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How slowly it forgets, per step."""


class Swa(Section):
    """The plain mean of the weights in the last part of a run (Izmailov et al. 2018)."""

    last: Share = 0.25
    """That part, as a share of the budget."""


class Average(OneOf):
    """Weights that are averaged over steps, and validated and kept in place of the last ones: one of these."""

    what: ClassVar[str] = "average"
    example: ClassVar[str] = "average: ema"

    ema: Ema | None = None
    swa: Swa | None = None
