"""Conversations as the text that a model was trained on, by the template that travels with it, in the way of ``transformers``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from treadle.core.errors import RequestError

FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")


class ChatTemplate:
    """``text`` in jinja, rendered in a sandbox; ``marks``: names of special tokens and their texts, which it may use."""

    def __init__(self, text: str, tokenizer: Tokenizer, marks: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        self._template, self._marks = environment.from_string(text), dict(marks)
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = False  # of the template
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = sorted((token.content for token in added if token.special), key=len, reverse=True)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """That of a model's folder; None where it has none."""
        config: dict[str, Any] = {}
        if (folder / _CONFIG).exists():
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        file = folder / FILE
        text = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if not isinstance(text, str):
            return None
        found = {name: config[name] for name in _MARKS if name in config}
        return cls(text, tokenizer, {name: mark["content"] if isinstance(mark, dict) else mark for name, mark in found.items()})

    def tokens(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Ids of the conversation up to where the assistant begins. What stands in ``messages`` and ``tools`` never becomes a
        control token. Raises ``RequestError`` for a conversation that the template refuses."""
        seam = secrets.token_hex(16)  # put into what looks like a control token, and taken out again after it was cut there
        try:
            text = self._template.render(
                messages=self._apart(list(messages), seam), tools=self._apart(list(tools), seam) if tools else None,
                add_generation_prompt=True, **self._marks,
            )
        except (TemplateError, TypeError, ValueError) as error:
            cure = "send messages in the order and with the roles that the model's template knows"
            raise RequestError(f"messages: {str(error)[:300]}", field="messages", cure=cure) from None
        return [id for part in text.split(seam) for id in self._tokenizer.encode(part, add_special_tokens=False).ids]

    def _apart(self, given: Any, seam: str) -> Any:
        if isinstance(given, str):
            for special in self._special:
                given = given.replace(special, special[0] + seam + special[1:])
            return given
        if isinstance(given, Mapping):
            return {key: self._apart(value, seam) for key, value in given.items()}
        return [self._apart(value, seam) for value in given] if isinstance(given, list) else given


def _to_json(value: Any, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **more)


def _refuse(message: str) -> None:
    raise TemplateError(message)
