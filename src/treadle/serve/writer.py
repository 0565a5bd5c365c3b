"""Who writes texts: what every engine has of prompts, settings, the line of those who wait, and how an answer goes on and ends."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from tokenizers import Tokenizer

from treadle.core.errors import RequestError
from treadle.data.shards import END_ID
from treadle.data.tokenizer import token_bytes
from treadle.model.adapter import Adapter
from treadle.model.lookup import Lookup
from treadle.model.sampling import Adjusted, Likely, Sampling
from treadle.model.template import ChatTemplate
from treadle.serve.constraint import Constraint, Form, Forms
from treadle.serve.line import Asker, Line
from treadle.serve.text import TextStream
from treadle.serve.version import Full, Retired, Version

FinishReason = Literal["stop", "length", "cancelled", "error", "late", "refused"]
_WRITTEN = 2  # what a token that is written counts beside one that is read, where keys share
log = logging.getLogger("treadle.serve")


@dataclass(frozen=True)
class Settings:
    """How to write one answer."""

    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    seed: int | None = None
    """None: a random one is drawn."""
    truncate: int | None = None
    """Keep this many last tokens of the prompt; -1: as many as fit beside ``max_tokens``, but half the context in any case; None:
    refuse a longer one."""
    likely: int | None = None
    """Tell of each token how likely it was, and this many that were likelier or as likely; None: do not."""
    form: Form | None = None
    """What the answer is held to."""
    adapter: str | None = None
    """The adapter that it is written with."""


@dataclass(frozen=True)
class Piece:
    """What one step added to an answer: certain ``text`` (may be empty), and at the end why it ended."""

    text: str
    finish_reason: FinishReason | None = None
    tokens: int = 0
    """Of the answer so far."""
    likely: tuple[Likely, ...] = ()
    """Of the tokens that this piece adds, where that was asked for."""


@dataclass(eq=False)
class Answer:
    """One answer in the making. The engine's thread writes it and calls ``deliver`` with each piece; anyone may ``cancel``."""

    prompt: list[int]
    """Token ids, the end mark that stands before every text included."""
    dropped: int
    """Prompt tokens that were cut off at the front."""
    settings: Settings
    seed: int
    stream: TextStream
    deliver: Callable[[Piece], None]
    asker: Asker = field(default_factory=Asker)
    adjusted: Adjusted | None = None
    constraint: Constraint | None = None
    tokens: int = 0
    """Tokens written; an end mark is not counted."""
    started: float = field(default_factory=time.monotonic)
    begun: float | None = None
    """When it got its slot (monotonic seconds)."""
    first: float | None = None
    """When the first token came, likewise."""
    finish_reason: FinishReason | None = None
    read: int = 0
    """Prompt tokens read."""
    known: int = 0
    """Of them those that an earlier answer had read."""
    slot: int = -1
    last: int = -1
    generator: torch.Generator = field(default_factory=torch.Generator)
    lookup: Lookup = field(default_factory=Lookup)
    cancelled: bool = False
    refused: Full | None = None
    """What to tell whoever asked, where another took its place in line."""

    def cancel(self) -> None:
        """Free the slot within a step; a piece with the reason ``cancelled`` is the last."""
        self.cancelled = True


class Writer(ABC):
    """A model with ``slots`` places, and a line of at most ``queue`` answers for which none is free. A thread of its own gives the
    places out."""

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: int, version: Version, slots: int, queue: int, template: ChatTemplate | None,
        ends: Sequence[int],
    ) -> None:
        """``vocabulary``: how many tokens the model knows; ``template`` of a model that was trained on conversations; ``ends``:
        tokens that end an answer."""
        self.tokenizer, self.vocabulary, self.version, self.template = tokenizer, vocabulary, version, template
        self.ends = frozenset(ends)
        self.slots = slots
        self.adapters: dict[str, Adapter] = {}
        """Those that an answer may be written with, by name."""
        self.table = token_bytes(tokenizer, vocabulary)
        self._forms = Forms(tokenizer, vocabulary, sorted(self.ends))
        self._line: Line[Answer] = Line(queue)
        self._active: list[Answer] = []
        self._retired = False
        self._seconds = 1.0  # how long an answer takes, a moving mean
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"engine-{version.number}", daemon=True)

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens that prompt and answer share."""

    @property
    def stalled(self) -> str | None:
        """Why no answer can begin now, and what is done about it; None: they can."""
        return None

    @property
    def room(self) -> int:
        """Tokens that a prompt and its answer may have together: the answer's last one needs no place."""
        return self.context + 1

    @abstractmethod
    def _work(self) -> None:
        """What the thread does, until the engine is retired and all is answered."""

    @abstractmethod
    def _free(self, answer: Answer) -> None:
        """Give back what an answer that had begun holds."""

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def prepare(
        self, prompt: str | Sequence[int], settings: Settings, deliver: Callable[[Piece], None], asker: Asker | None = None
    ) -> Answer:
        """Tokens and settings of a new answer; ``prompt`` as ids is taken as it is. Raises ``RequestError`` where the prompt does
        not fit the context, or the form is none."""
        given = [END_ID, *self.tokenizer.encode(prompt, add_special_tokens=False).ids] if isinstance(prompt, str) else list(prompt)
        wrong = [token for token in given if not 0 <= token < self.vocabulary]
        if wrong or not given:
            message = f"prompt: {wrong[0]} is no token of this model" if wrong else "prompt: there is no token"
            raise RequestError(message, field="prompt", cure=f"ids are 0 to {self.vocabulary - 1}")
        for token, _ in settings.sampling.bias:
            if not 0 <= token < self.vocabulary:
                cure = f"ids are 0 to {self.vocabulary - 1}"
                raise RequestError(f"logit_bias: {token} is no token of this model", field="logit_bias", cure=cure)
        if settings.adapter is not None and settings.adapter not in self.adapters:
            cure = f"version {self.version.number} has {', '.join(self.adapters) or 'none'}"
            raise RequestError(f"there is no adapter {settings.adapter[:100]!r}", status=404, field="model", cure=cure)
        tokens, dropped = self._fit(given, settings)
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        answer = Answer(tokens, dropped, settings, seed, TextStream(self.table, settings.stops), deliver, asker or Asker())
        answer.generator.manual_seed(seed)
        if not settings.sampling.plain:
            answer.adjusted = Adjusted(settings.sampling, tokens, self.vocabulary)
        if settings.form:
            answer.constraint = self._forms.begin(settings.form)
        return answer

    def _fit(self, tokens: list[int], settings: Settings) -> tuple[list[int], int]:
        keep = len(tokens)
        if settings.truncate == -1:
            keep = max(self.context - settings.max_tokens, -(-self.context // 2))
        elif settings.truncate is not None:
            keep = settings.truncate
        kept = tokens[-keep:]
        if len(kept) >= self.room:
            field = "prompt" if settings.truncate is None else "truncate_prompt_tokens"
            most = self.room - 1
            message = f"the prompt is {len(kept)} tokens (one marks its start), more than the {most} of the model's context"
            cure = "shorten it, or send 'truncate_prompt_tokens': -1 to keep the last tokens that fit beside max_tokens"
            raise RequestError(message, field=field, cure=cure)
        return kept, len(tokens) - len(kept)

    def submit(self, answer: Answer) -> None:
        """Put ``answer`` in line. Raises ``Full``, or ``Retired`` if the engine takes no new work."""
        each = self._seconds / self.slots
        with self._wake:
            if self._retired:
                raise Retired
            put_out = self._line.join(answer, max(0, self.slots - len(self._active)), each)
            if put_out is not None:
                put_out.refused = self._line.full(each)
            self._wake.notify()
        if put_out is not None:
            self._end(put_out, "refused", "")

    def retire(self) -> None:
        """Take no new work; finish what there is, then let the thread end."""
        with self._wake:
            self._retired = True
            self._wake.notify()

    def stop(self) -> None:
        """Cancel everything, and wait for the thread's end."""
        with self._wake:
            self._retired = True
            for answer in (*self._line, *self._active):
                answer.cancel()
            self._wake.notify()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether a retired engine has finished its answers."""
        return not self._thread.is_alive()

    # -- for the engines ----------------------------------------------------------------------------------------------

    def _gone(self) -> list[Answer]:
        """Take those out of the line who wait in vain; to be called with the lock held."""
        gone = [answer for answer in self._line if answer.cancelled or answer.asker.late]
        for answer in gone:
            self._line.leave(answer)
        return gone

    def _give_up(self, answers: Sequence[Answer]) -> None:
        """End answers that were cancelled or are late."""
        for answer in answers:
            self._end(answer, "cancelled" if answer.cancelled else "late", "")

    def _add(self, answer: Answer, token: int, about: tuple[Likely, ...]) -> None:
        """``answer`` goes on with ``token``, or ends: give out the text that this makes certain."""
        if answer.first is None:
            answer.first = time.monotonic()
        if token in self.ends:
            self._end(answer, "stop", answer.stream.finish())
            return
        self._push(answer, token)
        text = answer.stream.push(token)
        if answer.stream.stopped:
            self._end(answer, "stop", text, about)
        elif answer.constraint is not None and answer.constraint.complete:
            self._end(answer, "stop", text + answer.stream.finish(), about)
        elif len(answer.prompt) + answer.tokens >= self.room or answer.tokens == answer.settings.max_tokens:
            self._end(answer, "length", text + answer.stream.finish(), about)
        else:
            deliver(answer, text, None, about)

    def _push(self, answer: Answer, token: int) -> None:
        answer.tokens += 1
        self._line.charge(answer.asker, _WRITTEN)
        if answer.constraint is not None:
            answer.constraint.push(token)

    def _end(self, answer: Answer, reason: FinishReason, text: str, about: tuple[Likely, ...] = ()) -> None:
        answer.finish_reason = reason
        with self._wake:
            if answer in self._active:
                self._active.remove(answer)
                self._free(answer)
                self._line.end(answer.asker)
        if reason in ("stop", "length"):
            self._seconds += 0.2 * (time.monotonic() - answer.started - self._seconds)
        deliver(answer, text, reason, about)


def deliver(answer: Answer, text: str, reason: FinishReason | None = None, about: tuple[Likely, ...] = ()) -> None:
    """Hand a piece over; if no one is there to take it, the answer is in vain."""
    try:
        answer.deliver(Piece(text, reason, answer.tokens, about))
    except RuntimeError:  # the event loop that waited for it is closed
        answer.cancel()
