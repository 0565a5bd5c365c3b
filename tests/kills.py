"""Trainings in processes of their own that are killed at random, and what must come out in the end.

A process that has loaded torch once forks each training, so that the hundredth start takes a blink. The trainings are of small
projects of every kind of task, and together they use what a training remembers from step to step: dropout, parts of a batch,
averages, patience, a plateau, batch norms, examples that are changed at random.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import treadle
from tiny import SPEC

RECIPES = Path(treadle.__file__).parent / "recipes"
STOPPED = 75
DEADLINE = 120.0  # seconds until a process counts as stuck
ALWAYS = ("train.checkpoint_every=1 ms", "train.threads=1", "train.precision=float32")


@dataclass(frozen=True)
class Kind:
    """A project: the tiny one of the tests, or a recipe on its sample, with overrides."""

    recipe: str = ""
    overrides: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "treadle.yaml").write_text(self.text(), encoding="utf-8")
        if self.recipe:
            shutil.copytree(RECIPES / self.recipe.partition("/")[0] / "sample", folder / "sample")

    def text(self) -> str:
        if not self.recipe:
            return SPEC
        return (RECIPES / self.recipe / "sample.yaml").read_text(encoding="utf-8").replace("../sample", "sample")


KINDS = {
    "language": Kind("", ("train.budget=80 steps", "train.average=ema", "model.trunk.transformer.dropout=0.1")),
    "masked": Kind("bert/pretrain", ("train.budget=80 steps", "train.accumulate=2", "train.average=swa")),
    "recurrent": Kind("chars-lstm", (
        "train.budget=80 steps", "train.optimizer=schedule_free", "train.schedule=constant", "model.trunk.recurrent.dropout=0.2",
    )),
    "table": Kind("credit-risk", (
        "train.budget=30 epochs", "train.patience=12", "train.validate_every=4%", "train.keep_best=true",
    )),
    "image": Kind("objects-cnn", (
        "train.budget=80 steps", "train.optimizer={sgd: {momentum: 0.9, nesterov: true}}", "train.validate_every=5%",
        "train.schedule={plateau: {patience: 1}}", "model.trunk.conv.norm=batch", "train.keep_every=25",
    )),
    "audio": Kind("spoken-digits-ctc", ("train.budget=80 steps", "train.optimizer=muon", "train.schedule=stable")),
    "items": Kind("recommend", ("train.budget=20 epochs", "train.optimizer=adafactor", "train.schedule=one_cycle")),
}


def checkpoints(folder: Path) -> list[Path]:
    """Of the training that is under way in the project ``folder``, oldest first."""
    return sorted(folder.glob(".treadle/work/*/checkpoints/step-*"))


def newest(folder: Path) -> int:
    """The step of the last of them; 0 where there is none."""
    found = checkpoints(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


@dataclass
class Result:
    """What a finished training left."""

    weights: bytes
    course: list[Any]
    counts: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Result:
        (model,) = (folder / ".treadle" / "artifacts" / "model").iterdir()
        lines = [json.loads(line) for line in (model / "history.jsonl").read_text().splitlines()]
        course = [[line.get(key) for key in ("step", "loss", "validation_loss", "train_loss_eval")] for line in lines]
        counts = json.loads((model / "manifest.json").read_text())["counts"]
        return cls((model / "model.safetensors").read_bytes(), course, counts)

    def is_that_of(self, other: Result) -> bool:
        """Bit for bit, step for step."""
        same = all(self.counts[key] == other.counts[key] for key in ("steps", "tokens", "validation_loss", "best_step"))
        return same and self.weights == other.weights and self.course == other.course


@dataclass
class Starter:
    """The process that forks trainings."""

    process: subprocess.Popen[str]
    running: dict[int, Path] = field(default_factory=dict)

    def start(self, folder: Path, overrides: Sequence[str]) -> int:
        """Begin, or go on with, the training of the project in ``folder``; gives the process's number."""
        number = int(self._ask(["start", str(folder), *overrides]))
        self.running[number] = folder
        return number

    def ended(self, number: int) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        answer = self._ask(["ended", str(number)])
        return None if answer == "" else int(answer)

    def wait(self, number: int) -> int:
        deadline = time.monotonic() + DEADLINE
        while (code := self.ended(number)) is None:
            assert time.monotonic() < deadline, f"stuck: {self.said(self.running[number])}"
            time.sleep(0.002)
        return code

    def said(self, folder: Path) -> str:
        """What the trainings in ``folder`` said so far."""
        log = folder / "log.txt"
        return log.read_text() if log.exists() else ""

    def _ask(self, words: list[str]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return str(json.loads(self.process.stdout.readline()))


@contextmanager
def starter() -> Iterator[Starter]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield Starter(process)
    finally:
        process.kill()
        process.wait()


@dataclass
class Disturber:
    """Kills the training of a project in ``folder``, again and again."""

    starter: Starter
    folder: Path
    overrides: Sequence[str]
    chance: random.Random
    kills: list[str] = field(default_factory=list)

    def kill(self, way: str, most: int = 6) -> None:
        """Start, and after 1 to ``most`` steps and a moment end it by SIGKILL or SIGTERM; ``cut``: by SIGKILL, and then the newest
        checkpoint loses its end."""
        first = newest(self.folder)
        number = self.starter.start(self.folder, self.overrides)
        self._until(number, first + self.chance.randint(1, most))
        time.sleep(self.chance.random() * 0.01)
        os.kill(number, signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        code = self.starter.wait(number)
        assert code == (STOPPED if way == "SIGTERM" else -signal.SIGKILL), (code, self.starter.said(self.folder))
        self.kills.append(way)
        if way == "cut" and len(found := checkpoints(self.folder)) > 1:
            file = found[-1] / self.chance.choice(["weights.safetensors", "optimizer.safetensors", "state.json"])
            content = file.read_bytes()
            file.write_bytes(content[: self.chance.randrange(len(content))])

    def finish(self) -> Result:
        number = self.starter.start(self.folder, self.overrides)
        assert self.starter.wait(number) == 0, self.starter.said(self.folder)
        return Result.of(self.folder)

    def _until(self, number: int, step: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while newest(self.folder) < step:
            code = self.starter.ended(number)
            assert code is None, f"ended by itself ({code}) before step {step}: {self.starter.said(self.folder)}"
            assert time.monotonic() < deadline, f"stuck before step {step}: {self.starter.said(self.folder)}"
            time.sleep(0.0005)


def train(folder: Path, overrides: Sequence[str]) -> None:
    """The preparing and training half of ``treadle run``."""
    from treadle.core.project import load_project
    from treadle.prepare.corpus import make_corpus
    from treadle.prepare.dataset import make_dataset
    from treadle.store.artifacts import Store
    from treadle.train import rounds, stage

    stage.matrix_peak = lambda runtime: 1e9  # a second's measurement, for a figure that no result depends on
    project = load_project(folder, [*ALWAYS, *overrides])
    store = Store(project.store)
    dataset = make_dataset(project, store, make_corpus(project, store))
    stage.train_model(project, store, dataset, rounds.first_round(project, dataset))


def _fork(folder: Path, overrides: list[str]) -> int:
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from treadle.core.errors import TreadleError

        try:
            train(folder, overrides)
            code = 0
        except TreadleError as error:
            print(error, file=sys.stderr, flush=True)
            code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _serve() -> None:
    """One JSON list a line from standard input; one JSON text a line as the answer."""

    import treadle.prepare.dataset
    import treadle.train.stage  # noqa: F401

    for line in sys.stdin:
        word, *rest = json.loads(line)
        if word == "start":
            answer = str(_fork(Path(rest[0]), rest[1:]))
        else:
            number, status = os.waitpid(int(rest[0]), os.WNOHANG)
            answer = str(os.waitstatus_to_exitcode(status)) if number else ""
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
