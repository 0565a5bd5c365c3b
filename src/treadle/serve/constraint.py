"""Answers held to a form: a JSON schema, a regular expression, or one of several texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from tokenizers import Tokenizer
from torch import Tensor

from treadle.core.errors import RequestError

SPACE = r"[ \n\t]{0,16}"
"""Between the parts of JSON: enough for indentation, and no endless row of spaces."""


@dataclass(frozen=True)
class Form:
    """``text``: the schema as JSON, the expression (Rust's syntax), or the choices as a JSON list."""

    kind: Literal["json_schema", "regex", "choice"]
    text: str
    field: str = "structured_outputs"
    """Of the request that asks for it."""

    @classmethod
    def of(cls, kind: Literal["json_schema", "regex", "choice"], value: Any, field: str = "structured_outputs") -> Form:
        return cls(kind, value if kind == "regex" else json.dumps(value, ensure_ascii=False), field)


class Forms:
    """Of one tokenizer with ``vocabulary`` entries, of which ``ends`` end a text."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Sequence[int]) -> None:
        self.vocabulary, self.ends = vocabulary, list(ends)
        self._tokenizer = LLTokenizer(tokenizer.to_str(), n_vocab=vocabulary, eos_token=self.ends)

    def begin(self, form: Form) -> Constraint:
        """For a new answer. Raises ``RequestError`` for what is no form, or one that takes too much."""
        try:
            if form.kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(form.text, defaults={"whitespace_pattern": SPACE})
            else:
                grammar = grammar_from(form.kind, form.text)
        except ValueError as error:  # such as one that is nested too deep to be read
            raise _no_form(form, str(error)) from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _no_form(form, matcher.get_error())
        return Constraint(matcher, self.vocabulary)


def _no_form(form: Form, reason: str) -> RequestError:
    names = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices"}
    first = (reason.strip().splitlines() or [""])[0][:300]
    message = f"{form.field}: the answer cannot be held to this {names[form.kind]}: {first}"
    return RequestError(message, field=form.field, cure="mend it, or send a simpler one")


class Constraint:
    """What one answer may go on with."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def limited(self, scores: Tensor) -> Tensor:
        """Scores (V,) with -inf at what may not follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool)
        self._check()
        return scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)

    def push(self, token: int) -> None:
        """The answer goes on with ``token``, which may follow."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow but the end."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().strip().splitlines()[0][:200]  # behind it stands the text, which no log may hold
            raise RuntimeError(f"the answer's form failed: {reason}")
