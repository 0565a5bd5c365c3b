"""A model of running text at rest, whichever kind it is: a public layout, or a network."""

from __future__ import annotations

import json
from pathlib import Path

from treadle.model.hub import load_model, save_model
from treadle.model.memory import TextModel
from treadle.model.network import FILE, Network, load_network, save_network


def save_text_model(model: TextModel, folder: Path) -> None:
    """Write the model; tokenizer.json is the caller's."""
    if isinstance(model, Network):
        save_network(model, folder)
    else:
        save_model(model, folder)


def load_text_model(folder: Path) -> TextModel:
    """The model in ``folder``, in evaluation mode. Raises ``ArtifactError``."""
    return load_network(folder) if (folder / FILE).exists() else load_model(folder)


def end_tokens(folder: Path) -> list[int]:
    """Tokens that end what a model writes, as its folder says."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            given = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            found += [given] if isinstance(given, int) else given or []
    return sorted(set(found))
