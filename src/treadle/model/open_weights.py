"""Open weights of encoders: a folder with config.json and model.safetensors in the layout of BERT."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from treadle.core.errors import UserError
from treadle.spec.encoder import EncoderShape

WEIGHTS = "model.safetensors"
_CURE = "name a folder with the config.json and model.safetensors of a BERT"


def read_shape(folder: Path) -> EncoderShape:
    """The sizes that config.json states. Raises ``UserError`` where it is missing, damaged or of another architecture."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        shape = EncoderShape.from_dict(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the sizes of an encoder: {error!r}", cure=_CURE) from None
    asked = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, known in asked.items():
        if config.get(key, known) != known:
            raise UserError(f"{path} says {key}: {config[key]!r}; only {known!r} is known", cure=_CURE)
    return shape


def load_open_weights(network: nn.Module, input: str, folder: Path) -> None:
    """Put the folder's weights into ``network``'s input of that name and its trunk. What a BERT has beyond its layers, such as a
    pooler, is left. Raises ``UserError`` where a weight is missing or of another size."""
    path = folder / WEIGHTS
    try:
        found = {re.sub(r"^bert\.", "", name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}", cure=_CURE) from None
    own: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        start = next((start for start in (f"inputs.{input}.", "trunk.") if name.startswith(start)), None)
        if start:
            own[name.removeprefix(start)] = parameter
    wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
    if wrong:
        raise UserError(f"{path} lacks weights, or has them in other sizes: {', '.join(wrong[:3])}", cure=_CURE)
    with torch.no_grad():
        for name in own:
            own[name].copy_(found[name])
