"""Figures to Weights & Biases: kept in the store and sent nowhere, unless ``WANDB_MODE`` says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from treadle.train.logs.tracker import Tracker


class Wandb(Tracker):
    """One run of the project of the same name; ``wandb sync`` sends later what was kept."""

    name = "wandb"

    def begin(self, earlier: str | None) -> None:
        told = self.told
        folder = told.folder / "wandb"
        kept = {"CACHE_DIR": str(folder / "cache"), "DATA_DIR": str(folder / "data")}
        for key, value in {"ERROR_REPORTING": "false", **kept}.items():
            os.environ.setdefault(f"WANDB_{key}", value)
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self.run: Any = wandb.init(
            project=told.project, name=told.run, id=earlier, resume="allow" if earlier else None, config=dict(told.settings),
            dir=str(folder), mode=os.environ.get("WANDB_MODE", "offline"), settings=quiet,
        )
        self.remember(str(self.run.id))

    def send(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def end(self, done: bool) -> None:
        self.run.finish(exit_code=0 if done else 1)
