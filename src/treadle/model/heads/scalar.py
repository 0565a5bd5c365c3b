"""One class, yes or no, a number, several labels: one answer per row. B rows, D features, C classes.

Every head has ``outputs`` (what the loss takes), ``losses`` (B,) of the rows, NaN where there is no answer, and ``readable``: the
outputs as ``data/targets`` turns them into answers. A class that training never saw is below 0, and has no loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treadle.core.layout import Layout
from treadle.model.layers.signal import Form, Signal


class _Scalar(nn.Module):
    def __init__(self, layout: Layout, form: Form, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(form.width, outputs)
        self.options = dict(layout.options or {})

    def outputs(self, signal: Signal) -> Tensor:
        """(B, outputs)"""
        out: Tensor = self.linear(signal.mean())
        return out.float()


class ClassHead(_Scalar):
    """Softmax over classes, and cross-entropy."""

    weights: Tensor | None

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__(layout, form, layout.vocabulary)
        self.register_buffer("weights", torch.tensor(layout.weights) if layout.weights else None, persistent=False)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C), classes (B,) -> nats (B,): -log p of the right class, with label smoothing and class weights if set."""
        return self._entropy(outputs, targets, "none").masked_fill(targets < 0, torch.nan)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses`` over the rows with an answer, in one kernel; 0 where there is none."""
        return self._entropy(outputs, targets, "sum") / (targets >= 0).sum().clamp_min(1)

    def _entropy(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        seen = targets.clamp_min(-1)
        return F.cross_entropy(outputs, seen, self.weights, None, -1, None, reduction, self.options.get("smoothing", 0.0))

    def readable(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, C)."""
        return outputs.softmax(-1)


class BinaryHead(_Scalar):
    """One logit and the logistic loss: a softmax over one logit would have no gradient."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__(layout, form, 1)
        self.no, self.yes = layout.weights or (1.0, 1.0)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, 1), 0 or 1 (B,) -> nats (B,): -y log p - (1 - y) log(1 - p)."""
        known = targets >= 0
        y = targets.where(known, 0.0)
        loss = F.binary_cross_entropy_with_logits(outputs[:, 0], y, reduction="none")
        return (loss * (self.no + (self.yes - self.no) * y)).masked_fill(~known, torch.nan)

    def readable(self, outputs: Tensor) -> Tensor:
        """Probability of yes (B,)."""
        return outputs[:, 0].sigmoid()


class NumberHead(_Scalar):
    """A standardised number, or one per quantile."""

    def __init__(self, layout: Layout, form: Form) -> None:
        options = layout.options or {}
        self.quantiles: tuple[float, ...] = tuple(options.get("quantiles", ()))
        super().__init__(layout, form, max(1, len(self.quantiles)))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Numbers (B, 1 or Q), (B,) -> (B,): squared or absolute error, Huber's with delta 1, or the mean pinball loss over the
        quantiles (Koenker and Bassett 1978)."""
        known = ~targets.isnan()
        error = targets.where(known, 0.0)[:, None] - outputs
        loss = self.options["loss"]
        if loss == "mse":
            found = error.square()
        elif loss == "mae":
            found = error.abs()
        elif loss == "huber":
            found = F.huber_loss(error, torch.zeros_like(error), reduction="none")
        else:
            share = error.new_tensor(self.quantiles)
            found = torch.maximum(share * error, (share - 1) * error)
        return found.mean(1).masked_fill(~known, torch.nan)

    def readable(self, outputs: Tensor) -> Tensor:
        """(B, 1 or Q), standardised."""
        return outputs


class LabelsHead(_Scalar):
    """One logit per label, each by itself."""

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__(layout, form, layout.vocabulary)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C), 0 or 1 (B, C) -> nats (B,), the mean over the labels."""
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)

    def readable(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, C)."""
        return outputs.sigmoid()
