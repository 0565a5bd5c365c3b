"""Files and packages that the project names: are they there, before anything is spent? Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from treadle.core.errors import UserError
from treadle.core.paths import find_path
from treadle.core.project import Project
from treadle.data.tokenizer import open_tokenizer
from treadle.spec.problem import Location

_WEIGHTS = ("config.json", "model.safetensors")


def missing_files(project: Project) -> Iterator[tuple[Location, UserError]]:
    """The key, and what is wrong with the tokenizer, the encoder or the packages that it names."""
    model = project.spec.model
    folder = model.trunk.pretrained.folder if model.trunk.pretrained else None
    if folder is not None:
        try:
            found = find_path(folder, project.folder)
            if absent := [name for name in _WEIGHTS if not (found / name).is_file()]:
                cure = "name a folder with an encoder in the layout of BERT"
                raise UserError(f"{found} holds no {' and no '.join(absent)}", cure=cure)
            open_tokenizer(found)
        except UserError as error:
            yield ("model", "trunk", "pretrained", "folder"), error
    for name, given in model.inputs.items():
        file = getattr(getattr(given.settings, "tokenizer", None), "file", None)
        if file is None or file == folder:
            continue
        try:
            open_tokenizer(find_path(file, project.folder))
        except UserError as error:
            yield ("model", "inputs", name, given.kind, "tokenizer", "file"), error
    try:
        need_packages(project)
    except UserError as error:
        yield ("train", "log_to"), error


def need_packages(project: Project) -> None:
    """Raises ``UserError`` for trackers of ``train.log_to`` that are not installed; packages and extras have their names."""
    if missing := [name for name in project.spec.train.log_to if find_spec(name) is None]:
        cure = f"pip install 'treadle[{','.join(missing)}]', or leave it out"
        raise UserError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed", cure=cure)


def need_files(project: Project) -> None:
    """Raises ``UserError`` for the first that is missing."""
    for key, error in missing_files(project):
        raise UserError(f"{'.'.join(map(str, key))}: {error.message}", cure=error.cure)
