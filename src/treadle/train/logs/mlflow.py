"""Figures to MLflow: into the store, unless ``MLFLOW_TRACKING_URI`` names a server or another place."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from treadle.train.logs.tracker import Tracker

_SEND_EVERY = 2.0  # seconds
_MOST = 900  # figures in a request; MLflow takes 1,000
_LONGEST = 6000  # characters of a setting, as MLflow takes them


class Mlflow(Tracker):
    """One run of the experiment that has the project's name."""

    name = "mlflow"

    def begin(self, earlier: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        import mlflow

        told = self.told
        self.client: Any = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or self._local())
        self.metric = mlflow.entities.Metric
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        if earlier is not None:
            self.run = earlier
            self.client.update_run(self.run, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(told.project)
        experiment = found.experiment_id if found else self.client.create_experiment(told.project)
        self.run = self.client.create_run(experiment, run_name=told.run).info.run_id
        settings = [mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in told.settings.items()]
        for first in range(0, len(settings), 100):
            self.client.log_batch(self.run, params=settings[first : first + 100])
        self.remember(self.run)

    def send(self, figures: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self.metric(name, value, now, step) for name, value in figures.items()]
        if len(self._waiting) >= _MOST or time.monotonic() - self._sent >= _SEND_EVERY:
            self._flush()

    def end(self, done: bool) -> None:
        self._flush()
        self.client.set_terminated(self.run, "FINISHED" if done else "KILLED")

    def _flush(self) -> None:
        while self._waiting:
            self.client.log_batch(self.run, metrics=self._waiting[:_MOST])
            self._waiting = self._waiting[_MOST:]
        self._sent = time.monotonic()

    def _local(self) -> str:
        folder = self.told.folder / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'mlflow.db'}"
