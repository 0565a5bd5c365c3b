"""Everyone who watches a run, from its first step to its end: boards, samples, the profiler, trackers, and who asks how it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.project import Project
from treadle.core.runtime import Runtime
from treadle.data.given import need_packages
from treadle.data.loader import Examples
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.tokenizer import load_tokenizer
from treadle.model.memory import TextModel
from treadle.model.network import Network
from treadle.spec.train import Train
from treadle.store.artifacts import Artifact, flat
from treadle.store.notes import write_note
from treadle.train.hooks import Hook, TensorBoardHook
from treadle.train.logs.mlflow import Mlflow
from treadle.train.logs.tracker import Told, Tracker
from treadle.train.logs.wandb import Wandb
from treadle.train.profile import ProfileHook
from treadle.train.samples import TextSamples, contact_sheet, most_wrong, pictures_of

WORST = "most_wrong."
"""Beginning of the names of pictures in the model's folder."""
_TRACKERS: dict[str, type[Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}


@dataclass
class Watchers:
    """Of one run of ``model``, which learns from ``batches`` and is validated on the first ``watched`` of ``held_out``."""

    project: Project
    dataset: Artifact
    model: TextModel
    batches: Examples
    held_out: Examples
    settings: Train
    batch: int
    watched: int
    runtime: Runtime
    workspace: Path
    counts: dict[str, Any] = field(default_factory=dict)
    """What they found, for the model's manifest; filled at the end."""

    @contextmanager
    def at_work(self, step: int, note: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[list[Hook]]:
        """The hooks of a run that goes on at ``step``. ``note``: the model to be, its end and its unit, for 'treadle watch';
        ``config``: its settings, for trackers. Raises ``UserError`` for a tracker that is not installed."""
        need_packages(self.project)
        write_note(self.workspace, note)
        board = TensorBoardHook(self.workspace / "tensorboard", step)
        told = Told(self.project.spec.name, note["model"], flat(config), self.project.store, self.workspace)
        trackers = [_TRACKERS[name](told) for name in self.settings.log_to]
        profiler = ProfileHook(self.workspace, self.runtime, self.settings.validate_every > 0) if self.settings.profile else None
        done = False
        try:
            for tracker in trackers:
                tracker.open()
            if step == 0:
                self._first_pictures(board)
            yield [board, *self._samples(board), *trackers, *([profiler] if profiler else [])]
            done = True
            self._worst_pictures(board)
        finally:
            board.close()
            for tracker in trackers:
                tracker.close(done)
            if profiler:
                profiler.close()
                self.counts["profile"] = profiler.found

    def _samples(self, board: TensorBoardHook) -> list[Hook]:
        spec = self.project.spec
        if not spec.model.predicts_text or spec.model.masks or not spec.evaluate.sample.prompts:
            return []
        tokenizer = load_tokenizer(self.dataset.path / "tokenizer.json")
        return [TextSamples(board, self.model, tokenizer, spec.evaluate.sample, spec.seed)]

    def _first_pictures(self, board: TensorBoardHook) -> None:
        """The first batch as training sees it, changed at random as the settings ask."""
        for name, pictures in pictures_of(self.batches.batch_at(0, self.batch), self.model).items():
            board.image(f"first_batch/{name}", contact_sheet(pictures[:64]), 0)

    def _worst_pictures(self, board: TensorBoardHook) -> None:
        if not isinstance(self.model, Network) or not (self.dataset.path / FIELDS_FILE).exists():
            return
        if any(layout.kind == "image" for layout in self.model.layouts["inputs"].values()):
            schema = Schema.load(self.dataset.path)
            pictures, captions = most_wrong(self.model, self.held_out, self.watched, self.batch, schema, self.runtime)
            for name, found in pictures.items():
                sheet = contact_sheet(found, captions)
                board.image(f"most_wrong/{name}", sheet, board.step)
                sheet.save(self.workspace / f"{WORST}{name}.png")
