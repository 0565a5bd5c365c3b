"""``serve.rollout``: what a new version that passed its gate becomes while another one is live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from treadle.spec.fields import Fraction, Section


class Rollout(Section):
    """Whether a version that ``treadle run`` or ``improve`` finds better stands beside the live one first (``treadle rollout``)."""

    kind: Literal["canary", "shadow", "ab"] | None = None
    """``canary``: it answers a share of requests; ``shadow``: it gets copies, and no one sees its answers; ``ab``: it answers a
    share until it is known which of both is better. None: it goes live at once."""
    share: Annotated[Fraction, Field(gt=0, le=1)] | None = None
    """Of requests. None: 5% of a canary, 50% of ``ab``, 100% of a shadow."""
    alpha: Annotated[Fraction, Field(gt=0, lt=1)] = 0.05
    """Chance of ever naming a winner, or taking out a candidate for its failures, where both are equally good."""

    @model_validator(mode="after")
    def _both_need_answers(self) -> Rollout:
        if self.kind == "ab" and self.share == 1:
            raise ValueError("share: of 'ab' it is below 100%, since both sides need answers")
        return self
