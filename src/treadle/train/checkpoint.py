"""Checkpoints: everything that the next step depends on, written whole or not at all, without pickle.

    WORKSPACE/checkpoints/step-00000120/weights.safetensors, optimizer.safetensors, state.json

state.json is written last and holds the sha256 of the other two. A damaged checkpoint is passed over for the one before it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from treadle.core.errors import WorkError
from treadle.core.progress import say
from treadle.store.artifacts import disk_errors, sha256_of, write_json
from treadle.train.noise import NoiseScale
from treadle.train.watch import FARTHEST, Watch

_FILES = ("weights.safetensors", "optimizer.safetensors")
BEST = "best.safetensors"
"""In the workspace: the weights of the lowest validation loss so far, where ``patience`` asks for them."""
START = "start.safetensors"
"""In the workspace: the weights before the first step, and torch's random state, for a run that goes back to its start."""


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
    noise: NoiseScale = field(default_factory=NoiseScale)
    watch: Watch = field(default_factory=Watch)

    @classmethod
    def load(cls, written: Mapping[str, Any]) -> Position:
        """From what ``dataclasses.asdict`` made of one."""
        made: dict[str, Callable[[Any], Any]] = {"noise": lambda found: NoiseScale(**found), "watch": Watch.load}
        return cls(**{key: made[key](found) if key in made else found for key, found in written.items()})


class Remembering(Protocol):
    """What goes from step to step beside the weights."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by names of its own."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``tensors`` once gave; others may be among them."""
        ...


def save_weights(model: nn.Module, path: Path) -> None:
    """Write ``model``'s weights, whole or not at all."""
    draft = path.with_name(path.name + ".part")
    with disk_errors(path.parent):
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, draft)
        draft.replace(path)


def save_checkpoint(
    workspace: Path, model: nn.Module, state: Sequence[Remembering], position: Position, keep: int
) -> None:
    """Write the checkpoint of ``position`` and remove all but the newest ``keep``, and those from which a run that diverges may
    have to go on."""
    folder = workspace / "checkpoints"
    final = folder / f"step-{position.step:08d}"
    draft = folder / f"draft-{os.getpid()}"
    with disk_errors(workspace):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, draft / _FILES[0])
            tensors = {name: tensor for part in state for name, tensor in part.tensors().items()}
            save_file(tensors | {"rng": torch.get_rng_state()}, draft / _FILES[1])
            hashes = {name: sha256_of(draft / name) for name in _FILES}
            for name in _FILES:
                handle = os.open(draft / name, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
            write_json(draft / "state.json", {"position": asdict(position), "sha256": hashes})
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
        except SafetensorError as error:  # the library wraps the system's error and loses its number
            if "os error 28" in str(error) or "No space left" in str(error):
                raise OSError(28, os.strerror(28), str(draft)) from error
            raise WorkError(f"cannot write a checkpoint to {folder}: {error}", cure="check that disk") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    for old in _outdated(sorted(folder.glob("step-*")), keep):
        shutil.rmtree(old)


def _outdated(folders: list[Path], keep: int) -> list[Path]:
    """All but the newest ``keep``. Where these reach back less than ``FARTHEST`` steps, the first checkpoint after each of the last
    three multiples of it stays too: one of them is as far back."""
    newest, older = folders[-keep:], folders[:-keep]
    if _step(newest[-1]) - _step(newest[0]) >= FARTHEST:
        return older
    firsts: dict[int, Path] = {}
    for folder in older:
        firsts.setdefault(_step(folder) // FARTHEST, folder)
    spared = [firsts[at] for at in sorted(firsts) if at][-3:]
    return [folder for folder in older if folder not in spared]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save_start(workspace: Path, model: nn.Module) -> None:
    """Write the weights and torch's random state before the first step, unless they are there."""
    final = workspace / START
    if final.exists():
        return
    draft = final.with_name(final.name + ".part")
    with disk_errors(workspace):
        weights = {f"weights.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights | {"rng": torch.get_rng_state()}, draft)
        draft.replace(final)


def load_start(workspace: Path, model: nn.Module) -> Position:
    """Bring ``model`` and torch's random state to where ``save_start`` was called."""
    tensors = load_file(workspace / START)
    torch.set_rng_state(tensors.pop("rng"))
    model.load_state_dict({name.removeprefix("weights."): tensor for name, tensor in tensors.items()})
    return Position()


def load_checkpoint(workspace: Path, model: nn.Module, state: Sequence[Remembering], within: int | None = None) -> Position | None:
    """Bring ``model``, ``state`` and torch's random state to the newest whole checkpoint, and remove those of more than ``within``
    steps; None where there is none."""
    for folder in sorted((workspace / "checkpoints").glob("step-*"), reverse=True):
        if within is not None and _step(folder) > within:
            shutil.rmtree(folder)
            continue
        try:
            written = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if any(sha256_of(folder / name) != written["sha256"][name] for name in _FILES):
                raise ValueError("its content does not match its hash")
            weights, tensors = load_file(folder / _FILES[0]), load_file(folder / _FILES[1])
            position = Position.load(written["position"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"checkpoint {folder.name} is damaged ({error}): going on from the one before it")
            shutil.rmtree(folder)
            continue
        model.load_state_dict(weights)
        torch.set_rng_state(tensors.pop("rng"))
        for part in state:
            part.restore(tensors)
        return position
    return None

