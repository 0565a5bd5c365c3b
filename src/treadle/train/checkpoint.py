"""Checkpoints: everything that the next step depends on, written whole or not at all, without pickle.

    WORKSPACE/checkpoints/step-00000120/weights.safetensors, optimizer.safetensors, state.json

The tensors are copied between two steps, and written by a thread while training goes on. state.json is written last and holds the
sha256 of the other two. A damaged checkpoint is passed over for the one before it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from treadle.core.errors import WorkError
from treadle.core.progress import say
from treadle.core.scaling import LossScale
from treadle.spec.train import Train
from treadle.store.artifacts import disk_errors, sha256_of, sync_file, write_json
from treadle.train.noise import NoiseScale
from treadle.train.watch import FARTHEST, Watch

FOLDER = "checkpoints"
BEST = "best.safetensors"
"""In the workspace: the weights of the lowest validation loss so far, where ``patience`` asks for them."""
START = "start"
"""In the workspace: a checkpoint of the first step, for a run that goes back to its start."""
_FILES = ("weights.safetensors", "optimizer.safetensors")
_RNG, _RNG_CUDA = "random.cpu", "random.cuda"


@dataclass
class Position:
    """Where a run stands after ``step`` steps. Data order and schedule follow from it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Training time so far, over all interruptions."""
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of it by what they went into: data, forward, backward, optimizer, validation, checkpoints, boards; the rest
    is other."""
    validations: int = 0
    validation_loss: float | None = None
    train_loss_eval: float | None = None
    """Of examples that are trained on, measured as the validation loss is."""
    loss: float | None = None
    best: float | None = None
    """Lowest validation loss so far."""
    best_step: int = 0
    """After which step that was."""
    worse: int = 0
    """Validations in a row that did not reach it."""
    flat: int = 0
    """The same, since the rate last fell for it."""
    falls: int = 0
    """How often the rate fell for it."""
    history_bytes: int = 0
    """Length of history.jsonl; what stands behind it was written by steps that will be done again."""
    validated: int = 0
    """Steps that were done at the last validation."""
    computed: list[dict[str, Any]] = field(default_factory=list)
    """On what: device, precision and threads, each from the step ``since`` on."""
    begun: dict[str, Any] | None = None
    """The ``model`` and the ``step`` of its training that this one went on from."""
    noise: NoiseScale = field(default_factory=NoiseScale)
    watch: Watch = field(default_factory=Watch)
    scaling: LossScale = field(default_factory=LossScale)
    """Of a run in fp16."""

    @classmethod
    def load(cls, written: Mapping[str, Any]) -> Position:
        """From what ``dataclasses.asdict`` made of one."""
        made: dict[str, Callable[[Any], Any]] = {
            "noise": lambda found: NoiseScale(**found), "watch": Watch.load, "scaling": lambda found: LossScale(**found),
        }
        return cls(**{key: made[key](found) if key in made else found for key, found in written.items()})

    def computed_on(self, **runtime: Any) -> bool:
        """Note what the next steps are computed on; whether it is another than the last ones'."""
        last = self.computed[-1] if self.computed else None
        if last is None or last | runtime != last:
            self.computed.append({"since": self.step, **runtime})
        return last is not None and last | runtime != last


class Remembering(Protocol):
    """What goes from step to step beside the weights."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by names of its own."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` once gave; others may be among them."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds."""

    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    position: Mapping[str, Any]

    @classmethod
    def take(cls, model: nn.Module, state: Sequence[Remembering], position: Position, copy: bool = True) -> Snapshot:
        """``copy``: later steps do not change it."""

        def taken(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", copy=copy).contiguous()

        weights = {name: taken(tensor) for name, tensor in model.state_dict().items()}
        tensors = {name: taken(tensor) for part in state for name, tensor in part.tensors().items()}
        tensors[_RNG] = torch.get_rng_state()
        if any(tensor.is_cuda for tensor in model.state_dict().values()):
            tensors[_RNG_CUDA] = torch.cuda.get_rng_state()
        return cls(weights, tensors, asdict(position))

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """Raises ``ValueError`` or ``OSError`` where it is not whole."""
        try:
            written = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if any(sha256_of(folder / name) != written["sha256"][name] for name in _FILES):
                raise ValueError("its content does not match its hash")
            Position.load(written["position"])
            return cls(load_file(folder / _FILES[0]), load_file(folder / _FILES[1]), written["position"])
        except (KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"it is not what a checkpoint is: {error!r}") from None

    def restore_random(self) -> None:
        """Let torch's random numbers go on from here."""
        torch.set_rng_state(self.state[_RNG])
        if _RNG_CUDA in self.state and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.state[_RNG_CUDA])

    def write(self, folder: Path) -> None:
        """To ``folder``, which is there either whole or not at all. Raises ``WorkError``."""
        draft = folder.with_name(f"draft-{os.getpid()}")
        with disk_errors(folder.parent):
            try:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
                for name, tensors in zip(_FILES, (self.weights, self.state), strict=True):
                    save_file(dict(tensors), draft / name)
                    sync_file(draft / name)
                hashes = {name: sha256_of(draft / name) for name in _FILES}
                write_json(draft / "state.json", {"position": self.position, "sha256": hashes})
                draft.rename(folder)
                sync_file(folder.parent)
            except SafetensorError as error:  # the library wraps the system's error and loses its number
                if "os error 28" in str(error) or "No space left" in str(error):
                    raise OSError(28, os.strerror(28), str(draft)) from error
                raise WorkError(f"cannot write a checkpoint to {folder}: {error}", cure="check that disk") from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)


class Checkpoints:
    """Those of one run: taken between two steps, written by a thread of their own, one at a time.

    All but the newest ``keep_checkpoints`` are removed, and those to which a run that diverges may have to go back, and those that
    stay: one each ``keep_every`` steps, that of the lowest validation loss if ``keep_best``, and that of the step ``branch``.
    """

    def __init__(self, workspace: Path, settings: Train, branch: int | None = None) -> None:
        self.workspace, self.settings, self.branch = workspace, settings, branch
        self._taken = time.perf_counter()
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def due(self, position: Position) -> bool:
        """Whether one is to be taken of this step: of one that stays always, else when it is time and the last is written. Raises
        ``WorkError`` where the last could not be written."""
        if self._writing and self._writing.done():
            self.wait()
        if self._stays(position.step, position):
            return True
        return self._writing is None and time.perf_counter() - self._taken >= self.settings.checkpoint_every

    def take(self, model: nn.Module, state: Sequence[Remembering], position: Position, before: Callable[[], None]) -> None:
        """Copy, and begin to write, once what is being written is. ``before``: what must be on disk first. Raises ``WorkError``
        where the last could not be written."""
        self.wait()
        self._taken = time.perf_counter()
        self._writer = self._writer or ThreadPoolExecutor(1, "checkpoint")
        taken = Snapshot.take(model, state, position)
        self._writing = self._writer.submit(self._write, taken, Position.load(taken.position), before)

    def begin(self, model: nn.Module, state: Sequence[Remembering], position: Position) -> None:
        """Write that of the start."""
        shutil.rmtree(self.workspace / START, ignore_errors=True)
        Snapshot.take(model, state, position, copy=False).write(self.workspace / START)

    def wait(self) -> None:
        """Until nothing is being written. Raises ``WorkError`` where it could not be."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Let the thread go, once it has written."""
        if self._writer:
            self._writer.shutdown()

    def staying(self, position: Position) -> list[int]:
        """The steps of those that stay when the run ends at ``position``: its last, and what was asked for."""
        steps = sorted(step_of(folder) for folder in (self.workspace / FOLDER).glob("step-*"))
        return [step for step in steps if step == position.step or self._stays(step, position)]

    def _write(self, taken: Snapshot, position: Position, before: Callable[[], None]) -> None:
        folder = self.workspace / FOLDER
        final = folder_of(self.workspace, position.step)
        with disk_errors(self.workspace):
            before()
        if not final.exists():  # of the same step there is one already where a run was stopped before its next
            taken.write(final)
        for old in _outdated(sorted(folder.glob("step-*")), self.settings.keep_checkpoints):
            if not self._stays(step_of(old), position):
                shutil.rmtree(old)

    def _stays(self, step: int, position: Position) -> bool:
        s = self.settings
        best = s.keep_best and step == position.best_step
        return step > 0 and (best or step == self.branch or (s.keep_every is not None and step % s.keep_every == 0))


def _outdated(folders: list[Path], keep: int) -> list[Path]:
    """All but the newest ``keep``. Where these reach back less than ``FARTHEST`` steps, the first checkpoint after each of the last
    three multiples of it stays too: one of them is as far back."""
    newest, older = folders[-keep:], folders[:-keep]
    if step_of(newest[-1]) - step_of(newest[0]) >= FARTHEST:
        return older
    firsts: dict[int, Path] = {}
    for folder in older:
        firsts.setdefault(step_of(folder) // FARTHEST, folder)
    spared = [firsts[at] for at in sorted(firsts) if at][-3:]
    return [folder for folder in older if folder not in spared]


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies below ``root``."""
    return root / FOLDER / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write ``model``'s weights, whole or not at all."""
    draft = path.with_name(path.name + ".part")
    with disk_errors(path.parent):
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, draft)
        sync_file(draft)
        draft.replace(path)


def load_checkpoint(workspace: Path, model: nn.Module, state: Sequence[Remembering], within: int | None = None) -> Position | None:
    """Bring ``model``, ``state`` and torch's random state to the newest whole checkpoint, that of the start at last, and remove
    those of more than ``within`` steps; None where there is none."""
    for draft in (*(workspace / FOLDER).glob("draft-*"), *workspace.glob("draft-*")):  # of a process that is no more
        shutil.rmtree(draft, ignore_errors=True)
    folders = sorted((workspace / FOLDER).glob("step-*"), reverse=True)
    for folder in [*folders, *workspace.glob(START)]:
        if within is not None and folder.name != START and step_of(folder) > within:
            shutil.rmtree(folder)
            continue
        try:
            found = Snapshot.read(folder)
            lacking = {name for part in state for name in part.tensors()} - set(found.state)
            if lacking:
                raise ValueError(f"it lacks {min(lacking)}")
            model.load_state_dict(found.weights)
            for part in state:
                part.restore(found.state)
        except (OSError, ValueError) as error:
            say(f"checkpoint {folder.name} is damaged ({error}): going on from the one before it")
            shutil.rmtree(folder)
            continue
        found.restore_random()
        return Position.load(found.position)
    return None
