"""The stand-in for vLLM as tests see it, and prompts for an engine that it writes for."""

from __future__ import annotations

import json
import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sites import Asks

from treadle.model.sampling import Sampling
from treadle.serve.line import Asker
from treadle.serve.writer import Answer, Piece, Settings

PLAIN = Settings(8, Sampling(0.0))
PROMPT = [0, 65, 34]  # what follows 34 are letters and the like


@dataclass
class Stand:
    """The stand-in's folder."""

    folder: Path
    package: Path

    def set(self, name: str, value: object = "") -> None:
        (self.folder / name).write_text(str(value))

    def unset(self, name: str) -> None:
        (self.folder / name).unlink()

    def all(self, name: str) -> list[Any]:
        """What it wrote, in order."""
        found = sorted(self.folder.glob(f"{name}/[0-9]*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text()) for path in found]

    def marks(self, name: str) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob(f"{name}/[0-9]*"))


class Ask(Asks):
    def start(
        self, settings: Settings = PLAIN, prompt: str | list[int] = PROMPT, asker: Asker | None = None
    ) -> tuple[Answer, queue.Queue[Piece]]:
        return self.put(prompt, settings, asker)

    def __call__(self, settings: Settings = PLAIN, prompt: str | list[int] = PROMPT) -> tuple[str, str]:
        return self.finish(self.start(settings, prompt)[1])


def text_of(ask: Ask, tokens: list[int]) -> str:
    return b"".join(ask.engine.table[token] for token in tokens).decode("utf-8", "replace")
