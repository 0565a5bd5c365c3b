"""The whole of treadle.yaml."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from treadle.spec.data import Data
from treadle.spec.fields import Section
from treadle.spec.model import Model
from treadle.spec.optimizers import Muon, Optimizer
from treadle.spec.stages import Compress, Evaluate, Improve, Plan, Serve
from treadle.spec.train import Train
from treadle.spec.tune import Tune


class ProjectSpec(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Lower-case name of the model, as API clients say it."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Start of every random choice: split, weights, order, sampling of the scorecard."""
    store: str = ".treadle"
    """Folder, relative to this file, for everything that the project makes."""
    ledger: str | None = None
    """SQLAlchemy URL of the ledger, such as ``postgresql+psycopg://$USER:$PASSWORD@host/db`` ($NAMES come from the environment);
    None: an SQLite file in the store."""
    data: Data
    model: Model
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    compress: Compress = Compress()
    serve: Serve = Serve()
    improve: Improve = Improve()
    plan: Plan = Plan()
    tune: Tune = Tune()

    @model_validator(mode="after")
    def _optimizer_by_model(self) -> Self:
        """A language model's own optimiser, where none is given; it does not count as given then."""
        if self.model.is_language and "optimizer" not in self.train.model_fields_set:
            train = self.train.model_copy(update={"optimizer": Optimizer(muon=Muon())})
            train.model_fields_set.discard("optimizer")
            return self.model_copy(update={"train": train})
        return self

    @model_validator(mode="after")
    def _weights_by_engine(self) -> Self:
        """vLLM opens no quantised weights of this project's own, so a model that it serves is packaged as it was trained."""
        if self.serve.engine == "vllm" and self.model.is_language and self.compress.quantize is None:
            return self.model_copy(update={"compress": self.compress.model_copy(update={"quantize": "none"})})
        return self
