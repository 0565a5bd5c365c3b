"""Training that goes on from a finished one: for longer under the same settings, or from one of its steps under others.

    STORE/states/MODEL/checkpoints/step-00000120/     of the training of MODEL, as they were in its workspace
    STORE/states/MODEL/stay                           something asks for them; without it they go when the next model is finished
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from treadle.core.errors import ArtifactError, UserError, WorkError
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.spec.train import Train
from treadle.spec.units import Budget, parse_budget
from treadle.store.artifacts import Artifact, Making, Store, disk_errors
from treadle.store.ledger import Ledger
from treadle.train.checkpoint import FOLDER, Position, Remembering, Snapshot, folder_of, step_of

_STATES, _STAY = "states", "stay"


@dataclass(frozen=True)
class Base:
    """A checkpoint of a finished training, which another goes on from."""

    model: Artifact
    folder: Path
    step: int

    @property
    def identity(self) -> dict[str, Any]:
        return {"model": self.model.id, "step": self.step}

    def begin(self, network: nn.Module, make_state: Callable[[], Sequence[Remembering]], workspace: Path) -> Position:
        """Give ``network`` its weights, what ``make_state`` then makes what fits of all else, and ``workspace`` its history. Gives
        where it stands, but for what was compared with earlier validations. Raises ``UserError`` where ``network`` has other
        weights."""
        taken = self._read()
        own = network.state_dict()
        other = sorted(name for name in own.keys() | taken.weights.keys() if not _fits(name, own, taken.weights))
        if other:
            cure = "give 'model:' the form that it was trained in, or begin with model.start_from"
            raise UserError(f"train.continue_from: {other[0]!r} is not in {self.model.id}, or of another shape", cure=cure)
        network.load_state_dict(taken.weights)
        _adopt(taken, make_state())
        old = Position.load(taken.position)
        history = (self.model.path / "history.jsonl").read_bytes()[: old.history_bytes]
        (workspace / "history.jsonl").write_bytes(history)
        shutil.copytree(self.model.path / "tensorboard", workspace / "tensorboard", dirs_exist_ok=True)
        return replace(old, best=None, best_step=0, worse=0, flat=0, validations=0, history_bytes=len(history), begun=self.identity)

    def stay(self) -> None:
        """Keep it, whatever else is trained: another training begins with it."""
        if self.folder.exists():
            (self.folder / _STAY).touch()

    def _read(self) -> Snapshot:
        """Raises ``UserError`` where it is there no more, ``WorkError`` where it is damaged."""
        place = folder_of(self.folder, self.step)
        if not place.exists():
            cure = "train it again with train.keep_every, or begin with model.start_from"
            raise UserError(f"train.continue_from: the checkpoint of {self.model.id} at step {self.step} was not kept", cure=cure)
        try:
            return Snapshot.read(place)
        except (OSError, ValueError) as error:
            cure = f"remove {place}, and go on from another step or from the beginning"
            raise WorkError(f"the checkpoint of {self.model.id} at step {self.step} is damaged: {error}", cure=cure) from None


def _adopt(taken: Snapshot, state: Sequence[Remembering]) -> None:
    """Give each part what fits of what went from step to step, parameter by parameter; the rest stays as it begins. Torch's random
    numbers go on."""
    given = _by_parameter(taken.state)
    units = fitting = 0
    for part in state:
        own = _by_parameter(part.tensors())
        fit = [name for name, tensors in own.items() if _same_shapes(tensors, given.get(name, {}))]
        units, fitting = units + len(own), fitting + len(fit)
        part.restore({**part.tensors(), **{key: tensor for name in fit for key, tensor in given[name].items()}})
    if fitting < units:
        say(f"what is remembered from step to step fits {fitting} of {units} times; the rest begins anew")
    taken.restore_random()


def open_base(project: Project) -> Base | None:
    """What ``train.continue_from`` names; None where it names nothing. Raises ``UserError`` where there is no such model, or no
    such step of it."""
    given = project.spec.train.continue_from
    if given is None:
        return None
    name, _, at = given.partition("@")
    store = Store(project.store)
    model = store.open(_model_id(project, store, name))
    steps = model.counts.get("checkpoints", [])
    step: int = model.counts.get("best_step", 0) if at == "best" else int(at or model.counts["steps"])
    if step not in steps:
        cure = f"kept: {', '.join(map(str, steps)) or 'none'}; train.keep_every and train.keep_best say which stay"
        raise UserError(f"train.continue_from: {model.id} has no checkpoint of step {step}", cure=cure)
    return Base(model, _folder(store, model.id), step)


def earlier_part(store: Store, making: Making, settings: Train, agrees: Callable[[Budget, int], bool]) -> Base | None:
    """The latest checkpoint that ``making``'s training would come to as well, bit for bit: of a finished one which differs in its
    budget alone, at a step up to which their rates are the same, as ``agrees`` says. None where there is none, and where a share of
    the budget decides on more than the rate: with ``patience``, on a plateau, for a mean over the last part."""
    if settings.patience or settings.schedule.plateau or (settings.average and settings.average.swa):
        return None
    found: list[Base] = []
    for folder in (store.root / _STATES).glob("model-*"):
        try:
            model = store.open(folder.name)
        except ArtifactError:
            continue
        if _same_but_budget(model, making):
            budget = parse_budget(model.config["budget"])
            found += [Base(model, folder, step) for step in _steps(folder) if agrees(budget, step)]
    return max(found, key=lambda base: base.step, default=None)


def keep_states(store: Store, id: str, workspace: Path, steps: Sequence[int], settings: Train) -> None:
    """Keep the checkpoints of ``steps`` in ``workspace`` beside the model ``id`` to be."""
    draft = store.root / _STATES / f"draft-{os.getpid()}"
    with disk_errors(store.root):
        shutil.rmtree(draft, ignore_errors=True)
        try:
            for step in steps:
                shutil.copytree(folder_of(workspace, step), folder_of(draft, step), copy_function=_link)
            if settings.keep_every or settings.keep_best:
                (draft / _STAY).touch()
            shutil.rmtree(_folder(store, id), ignore_errors=True)
            draft.rename(_folder(store, id))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def drop_states(store: Store, but: str) -> None:
    """Let go of the states that nothing asks for, but those of the model ``but``."""
    for folder in (store.root / _STATES).glob("model-*"):
        if folder.name != but and not (folder / _STAY).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _folder(store: Store, id: str) -> Path:
    return store.root / _STATES / id


def _link(source: str, target: str) -> None:
    """The same file under a second name, where the file system has such: a checkpoint is never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _steps(folder: Path) -> list[int]:
    return sorted(step_of(path) for path in (folder / FOLDER).glob("step-*"))


def _model_id(project: Project, store: Store, name: str) -> str:
    """The id of the model that ``name`` means. Raises ``UserError``."""
    if name[:1] in "vV" and name[1:].isdecimal():
        ledger = Ledger(project.store, project.ledger_url)
        try:
            packages = [row["package"] for row in ledger.deployments() if row["version"] == int(name[1:])]
        finally:
            ledger.close()
        if not packages:
            raise UserError(f"train.continue_from: there was never a version {name}", cure="'treadle report' lists what was live")
        return store.open(packages[0]).parents[0]
    known = sorted(f"model-{path.name}" for path in (store.root / "artifacts" / "model").glob("*"))
    found = [id for id in known if id.startswith(name)] if len(name) > len("model-") else []
    if len(found) == 1:
        return found[0]
    cure = f"models of this project: {', '.join(known[:5])}" if known else "run 'treadle run' first"
    raise UserError(f"train.continue_from: there is no model {name!r}", cure=cure)


def _same_but_budget(model: Artifact, making: Making) -> bool:
    """Whether ``model`` was made of the same things, in one piece on a machine that computes alike."""
    one, two = (json.loads(json.dumps(_without_budget(config))) for config in (model.config, making.config))
    mixed = model.counts.get("runtime", {}).get("earlier")
    return one == two and model.parents == making.parents and model.manifest["stage_version"] == making.version and not mixed


def _without_budget(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "budget": None, "train": {**config["train"], "budget": None}}


def _by_parameter(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Names without their last part -> name -> tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(name.rpartition(".")[0], {})[name] = tensor
    return found


def _same_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return own.keys() == given.keys() and all(_fits(name, own, given) for name in own)


def _fits(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return name in own and name in given and own[name].shape == given[name].shape
