"""The shapes of a reply, as OpenAI has them: of a completion, and of a chat."""

from __future__ import annotations

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from treadle.model.sampling import Likely

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
"""How models of the Qwen and Hermes kind ask for a function."""

Choice = dict[str, Any]


class Told:
    """What was told of one answer's tokens so far."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table, self._bytes = table, b""

    def text(self, token: int) -> str:
        return self._table[token].decode("utf-8", "replace")

    def begin(self, token: int) -> int:
        """The place of ``token`` in the answer's text (characters), which goes on with it."""
        place = len(self._bytes.decode("utf-8", "ignore"))
        self._bytes += self._table[token]
        return place

    def raw(self, token: int) -> list[int]:
        return list(self._table[token])


class ReplyForm(ABC):
    """``likely``: whether each choice tells how likely its tokens were."""

    prefix: str
    """Of ids."""
    whole: str
    """The name of the object, and that of a stream's."""
    streamed: str

    def __init__(self, likely: bool) -> None:
        self.likely = likely

    @property
    def at_once(self) -> bool:
        """Whether a stream's text comes in one piece, since its end decides what it is."""
        return False

    def begin(self, index: int) -> Choice | None:
        """What a stream's choice opens with."""
        return None

    @abstractmethod
    def part(self, index: int, text: str, reason: str | None, about: Sequence[Likely], told: Told) -> Choice:
        """A piece of a stream's choice."""

    @abstractmethod
    def choice(self, index: int, text: str, reason: str | None, about: Sequence[Likely], told: Told) -> Choice:
        """A whole one."""


class CompletionForm(ReplyForm):
    prefix, whole, streamed = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, text: str, reason: str | None, about: Sequence[Likely], told: Told) -> Choice:
        found = None
        if self.likely:
            found = {
                "tokens": [told.text(one.token) for one in about], "token_logprobs": [one.logprob for one in about],
                "top_logprobs": [{told.text(token): value for token, value in one.top} for one in about],
                "text_offset": [told.begin(one.token) for one in about],
            }
        return {"index": index, "text": text, "logprobs": found, "finish_reason": reason}

    part = choice


class ChatForm(ReplyForm):
    prefix, whole, streamed = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, likely: bool, tools: bool) -> None:
        super().__init__(likely)
        self.tools = tools

    @property
    def at_once(self) -> bool:
        return self.tools

    def begin(self, index: int) -> Choice | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def part(self, index: int, text: str, reason: str | None, about: Sequence[Likely], told: Told) -> Choice:
        said, reason = self._said(text, reason)
        for place, call in enumerate(said.get("tool_calls", ())):
            call["index"] = place
        delta = {name: value for name, value in said.items() if value is not None and value != ""}
        return {"index": index, "delta": delta, "logprobs": self._about(about, told), "finish_reason": reason}

    def choice(self, index: int, text: str, reason: str | None, about: Sequence[Likely], told: Told) -> Choice:
        said, reason = self._said(text, reason)
        message = {"role": "assistant", **said, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._about(about, told), "finish_reason": reason}

    def _said(self, text: str, reason: str | None) -> tuple[dict[str, Any], str | None]:
        """Content and calls; text that only looks like a call stays text."""
        calls = [_call(found) for found in _CALL.findall(text)] if self.tools else []
        if not calls or not all(calls):
            return {"content": text}, reason
        rest = _CALL.sub("", text).strip()
        return {"content": rest or None, "tool_calls": calls}, "tool_calls" if reason == "stop" else reason

    def _about(self, about: Sequence[Likely], told: Told) -> dict[str, Any] | None:
        def one(token: int, value: float) -> dict[str, Any]:
            return {"token": told.text(token), "logprob": value, "bytes": told.raw(token)}

        if not self.likely:
            return None
        return {"content": [one(x.token, x.logprob) | {"top_logprobs": [one(*pair) for pair in x.top]} for x in about]}


def _call(text: str) -> dict[str, Any] | None:
    """``{"name": ..., "arguments": {...}}`` as a call; None where it is none."""
    try:
        given = json.loads(text)
        name, arguments = given["name"], given.get("arguments", {})
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(name, str):
        return None
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": arguments}}
