"""A model of running text at rest, whichever kind it is: a public layout, or a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from treadle.model.hub import load_model, save_model
from treadle.model.memory import TextModel
from treadle.model.network import FILE, Network, load_network, save_network
from treadle.model.template import FILE as TEMPLATE


def save_text_model(model: TextModel, folder: Path) -> None:
    """Write the model; tokenizer.json is the caller's."""
    if isinstance(model, Network):
        save_network(model, folder)
    else:
        save_model(model, folder)


def load_text_model(folder: Path) -> TextModel:
    """The model in ``folder``, in evaluation mode. Raises ``ArtifactError``."""
    return load_network(folder) if (folder / FILE).exists() else load_model(folder)


def keep_marks(source: Path, folder: Path) -> None:
    """Give the model in ``folder`` the template of conversations, the names of special tokens, and the tokens that begin and end a
    text, of the one in ``source``."""
    for name in (TEMPLATE, "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder)
    theirs, own = source / "config.json", folder / "config.json"
    if theirs.exists() and own.exists():
        given, config = (json.loads(path.read_text(encoding="utf-8")) for path in (theirs, own))
        config |= {key: given[key] for key in ("bos_token_id", "eos_token_id") if key in given}
        own.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def end_tokens(folder: Path) -> list[int]:
    """Tokens that end what a model writes, as its folder says."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            given = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            found += [given] if isinstance(given, int) else given or []
    return sorted(set(found))
