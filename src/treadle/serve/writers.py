"""A package that writes text, opened by the engine that ``serve.engine`` names."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from treadle.core.errors import UserError
from treadle.core.machine import free_memory
from treadle.core.progress import say
from treadle.core.runtime import best_device
from treadle.data.shards import END_ID
from treadle.data.tokenizer import load_tokenizer
from treadle.model.adapter import Adapter
from treadle.model.generate import PROCESSOR
from treadle.model.memory import TextModel
from treadle.model.model import LanguageModel
from treadle.model.network import Network
from treadle.model.template import ChatTemplate
from treadle.model.text import end_tokens, load_text_model
from treadle.serve.engine import Engine
from treadle.serve.version import Version
from treadle.serve.vllm import VllmEngine
from treadle.serve.writer import Writer
from treadle.spec.stages import Serve


def open_writer(folder: Path, version: Version, settings: Serve, root: Path, stop: threading.Event) -> Writer:
    """The package in ``folder`` at work; ``root``: the project's folder. ``stop`` ends a start that takes long. Raises
    ``ArtifactError`` where something is damaged, ``UserError`` where it writes no text or the engine cannot open it, ``WorkError``
    where the engine does not start."""
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    template, ends = ChatTemplate.load(folder, tokenizer), end_tokens(folder) or [END_ID]
    device = best_device() if settings.engine == "treadle" else PROCESSOR
    memory = _memory(device) if settings.cache is None else settings.cache
    if settings.engine == "vllm":
        if settings.adapters:
            raise UserError("serve.adapters are for this project's own engine", cure="set 'serve.engine: treadle'")
        return VllmEngine(
            folder, tokenizer, version, settings.slots, settings.queue, template, ends, memory, settings.engine_options, stop
        )
    model = load_text_model(folder)
    if isinstance(model, Network) and model.spec.masks:
        cure = "let another project start from it: 'start_from' in its 'model:' section"
        raise UserError("a masked language model writes no text", cure=cure)
    adapters = _adapters(model, settings, root)
    if isinstance(model, LanguageModel) and device.type != "cpu":
        say(f"Version {version.number} computes on {torch.cuda.get_device_name(device)}")
    engine = Engine(model, tokenizer, version, settings.slots, settings.queue, template, ends, memory, adapters, device)
    engine.let_weights_go()
    return engine


def _memory(device: torch.device) -> int:
    """Bytes for what texts have said so far, where nothing is said of it: so much of what is free there that the model, and one
    that takes its place later, have room beside it."""
    return free_memory() // 4 if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // 4


def _adapters(model: TextModel, settings: Serve, root: Path) -> list[Adapter]:
    """Those of ``serve.adapters``. Raises ``UserError`` and ``ArtifactError``."""
    if not settings.adapters:
        return []
    if not isinstance(model, LanguageModel):
        raise UserError("adapters are of transformers that write text", cure="leave serve.adapters out")
    return [Adapter.load(root / path, name, model.shape) for name, path in settings.adapters.items()]
