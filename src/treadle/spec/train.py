"""``train:`` how long, how fast, and how it is watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from treadle.spec.fields import AutoCount, AutoRate, Budget, Count, Duration, Fraction, Section, ShareOrSteps
from treadle.spec.optimizers import Adamw, Optimizer
from treadle.spec.schedules import Average, Linear, Schedule


class Group(Section):
    """Parameters that are treated in their own way."""

    rate: float = Field(default=1.0, ge=0)
    """What the rate is multiplied by; 0: they stay as they are."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Of all of them; None: that of the run, on matrices."""


class Train(Section):
    budget: Budget | None = None
    """Steps, tokens, epochs or wall time; None: 20 tokens per parameter of a language model, else epochs by trunk. A wall-time run
    ends on time, so its number of steps depends on the machine; the others are repeated bit for bit."""
    batch: AutoCount | None = None
    """Examples per step, over all of ``accumulate``; None: by depth, or by trunk. ``auto``: the smallest that is nearly as fast per
    example as any that fits into memory, as measured before the run."""
    accumulate: int | None = Field(default=None, ge=1)
    """Parts that a step's batch is computed in, to save memory; None: the fewest that fit, or more where a
    language model's step is so long that they take no longer."""
    recompute: bool | None = None
    """Whether a language model's layers are computed again in the backward pass, instead of keeping what they computed: the same
    gradients from less memory, in a third more time; None: where not even a single example fits otherwise."""
    learning_rate: AutoRate | None = None
    """Peak rate; None: by width, or by trunk. ``auto``: read off a range test on the run's own data (Smith 2017, section 3.3)."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Rate of each layer of a trunk that brings its weights, as a share of that of the layer above it; the heads have the full
    rate, the embeddings the lowest (Howard and Ruder 2018, section 3.2; Clark et al. 2020, table 7). 1: all alike."""
    groups: dict[str, Group] = {}
    """Parameters that are treated in their own way, by a pattern of their names like ``inputs.*``; the first match counts."""
    schedule: Schedule = Schedule(linear=Linear())
    warmup: ShareOrSteps = 0.03
    """Share of the budget, or steps, over which the rate rises from zero."""
    final_rate: Fraction = 0.0
    """The lowest rate after the warm-up, as a share of the peak."""
    average: Average | None = None
    """Weights averaged over steps, which are validated and kept in place of the last ones; None: the last ones."""
    optimizer: Optimizer = Optimizer(adamw=Adamw())
    """Where none is given, a language model takes ``muon``."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of matrices only: what weights lose in each step, as a share of the rate; with ``sgd``, ``adagrad``, ``rmsprop`` and ``adam``
    it is part of the gradient."""
    l1: float = Field(default=0.0, ge=0)
    """Weight of the sum of all matrices' absolute values in the loss."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations in a row that were no better than the best; the best weights are kept."""
    clip: float = Field(default=1.0, ge=0)
    """Largest global norm of the gradient; 0: no clipping."""
    precision: Literal["auto", "float32", "bf16", "fp16", "fp8"] = "auto"
    """Of the matrix products; ``auto``: bf16 where the processor computes it natively, else fp16 where a GPU does, else float32.
    With ``fp16`` the loss is scaled, and a step whose gradients overflow is left out. ``fp8``: that of linear layers, on GPUs of
    compute capability 8.9 and more; not yet measured on one."""
    validate_every: Fraction = 0.1
    """Validate each time this share of the budget has passed."""
    validate_tokens: Annotated[Count, Field(ge=1)] = 16_384
    """At most this many tokens of the validation part each time."""
    checkpoint_every: Duration = Field(default=30.0, gt=0)
    """Wall time between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Newest checkpoints that are kept; the one before the newest is the fallback when that is damaged."""
    keep_every: Annotated[Count, Field(ge=1)] | None = None
    """Steps between checkpoints that stay with the finished model, for ``continue_from``; None: none do, and its last one until the
    next model is finished."""
    keep_best: bool = False
    """Whether the checkpoint of the lowest validation loss stays with it too."""
    continue_from: str | None = Field(default=None, pattern=r"^[^@\s]+(@(\d+|best))?$")
    """A finished model of this project, by its id or as a version like ``v3``, whose training goes on here; after an ``@`` the
    step of a checkpoint that stayed, or ``best``. The budget counts from that training's first step. None: from the beginning."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the processor; None: one per core, no more than the environment's `OMP_NUM_THREADS`, or a single one where a
    step is too short to share. The result depends on it, so it is part of the run's identity."""
    log_to: list[Literal["mlflow", "wandb"]] = []
    """Where the figures of a run go beside its own files: ``mlflow``, to a folder of the store, ``wandb``, offline in the store;
    each elsewhere only where its own environment variables say so (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``)."""
    profile: bool = False
    """Record a few steps after the first ones: which operations take the time, with advice, and a trace to look into. It changes no
    weight."""

    @property
    def parts(self) -> int:
        """Parts that a step's batch is computed in, as far as is known."""
        return self.accumulate or 1

    @property
    def copies(self) -> float:
        """What training remembers of each weight, in numbers of 32 bits."""
        return self.optimizer.copies + (self.average is not None)
