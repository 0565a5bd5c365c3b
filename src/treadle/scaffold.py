"""Projects from recipes.

    recipes/NAME/about.yaml      what it is: one line each for what, data, time, reference, reached
    recipes/NAME/README.md       for people
    recipes/NAME/treadle.yaml    the project on the real data
    recipes/NAME/sample.yaml     the same project on the small data that lies in sample/, for machines that lack the real one
    recipes/NAME/sample/         that data; without a sample.yaml, treadle.yaml itself reads it
    recipes/NAME/STEP/          a project that is run before, whose model this one starts from: its own treadle.yaml and sample.yaml
    recipes/NAME/make.py         makes the project's data out of the real data; it is for the user to run
    neither                      where the real data is on every machine
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from treadle.core.errors import UserError
from treadle.core.registry import Registry
from treadle.data.sources.globs import data_folder

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class About:
    """What a recipe is and what it reaches, in a line each."""

    what: str
    data: str
    time: str
    """On two cores."""
    reference: str
    """A published figure."""
    reached: str
    """The figure measured here."""


def recipes() -> dict[str, About]:
    """Every recipe by name."""
    yaml = YAML(typ="safe", pure=True)
    return {file.parent.name: About(**yaml.load(file)) for file in sorted(RECIPES.glob("*/about.yaml"))}


def steps(recipe: str) -> list[str]:
    """Folders of the projects that are run before the recipe's own."""
    return sorted(file.parent.name for file in (RECIPES / recipe).glob("*/treadle.yaml"))


def missing_data(recipe: str) -> list[str]:
    """Folders of real data that ``recipe`` names and that this machine lacks."""
    files = [RECIPES / recipe / step / "treadle.yaml" for step in ("", *steps(recipe))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = sorted(set(re.findall(r"\{data\}/([\w.-]+)", text)))
    return [name for name in named if not (data_folder() / name).exists()]


def init(recipe: str, folder: Path | None) -> tuple[Path, list[str]]:
    """Make a project of ``recipe`` in ``folder`` (default: one of the recipe's name); gives it, and the data that is missing here,
    in whose place the recipe's own sample then stands. Raises ``UserError`` where a project is already."""
    registry: Registry[About] = Registry("recipe")
    for name, about in recipes().items():
        registry.register(name)(about)
    registry[recipe]  # a miss lists what there is
    target = folder or Path(recipe)
    if (target / "treadle.yaml").exists():
        raise UserError(f"{target} holds a project already", cure="choose another folder, or remove that treadle.yaml")
    missing = missing_data(recipe)
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECIPES / recipe / ("sample.yaml" if missing else "treadle.yaml"), target / "treadle.yaml")
        for step in steps(recipe):
            (target / step).mkdir(exist_ok=True)
            shutil.copy(RECIPES / recipe / step / ("sample.yaml" if missing else "treadle.yaml"), target / step / "treadle.yaml")
        if not (target / "README.md").exists():
            shutil.copy(RECIPES / recipe / "README.md", target / "README.md")
        if not missing and (make := RECIPES / recipe / "make.py").exists():
            shutil.copy(make, target / make.name)
        own = RECIPES / recipe / "sample"
        if own.exists() and (missing or not (RECIPES / recipe / "sample.yaml").exists()):
            shutil.copytree(own, target / "sample", dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {target}: {error.strerror}", cure="choose a folder that you may write to") from None
    return target, missing
