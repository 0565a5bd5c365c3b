"""Projects from recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

from treadle.core.errors import UserError
from treadle.core.registry import Registry

RECIPES = Path(__file__).parent / "recipes"


def recipes() -> dict[str, str]:
    """Name to first sentence of each recipe's README."""
    found = {}
    for readme in sorted(RECIPES.glob("*/README.md")):
        paragraph = readme.read_text(encoding="utf-8").split("\n\n")[1]
        found[readme.parent.name] = " ".join(paragraph.split()).split(". ")[0].rstrip(".").split(":")[0]
    return found


def init(recipe: str, folder: Path | None) -> Path:
    """Copy ``recipe`` into ``folder`` (default: one of the recipe's name). Raises ``UserError`` where a project is already."""
    registry: Registry[str] = Registry("recipe")
    for name, text in recipes().items():
        registry.register(name)(text)
    registry[recipe]  # a miss lists what there is
    target = folder or Path(recipe)
    if (target / "treadle.yaml").exists():
        raise UserError(f"{target} holds a project already", cure="choose another folder, or remove that treadle.yaml")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in (RECIPES / recipe).iterdir():
            if file.is_file() and not (target / file.name).exists():
                shutil.copy(file, target / file.name)
    except OSError as error:
        raise UserError(f"cannot make {target}: {error.strerror}", cure="choose a folder that you may write to") from None
    return target
