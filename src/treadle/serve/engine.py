"""One version at work: a thread that writes all answers of the moment together, one token each per step."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from treadle.core.errors import RequestError
from treadle.data.shards import END_ID
from treadle.data.tokenizer import token_bytes
from treadle.model.adapter import Adapter
from treadle.model.generate import generation_threads, make_memory
from treadle.model.lookup import Lookup
from treadle.model.memory import Part, TextModel
from treadle.model.sampling import Adjusted, Likely, Sampling, likely, sample
from treadle.model.template import ChatTemplate
from treadle.serve.constraint import Constraint, Form, Forms
from treadle.serve.line import Asker, Line
from treadle.serve.text import TextStream
from treadle.serve.version import Full, Retired, Version

FinishReason = Literal["stop", "length", "cancelled", "error", "late", "refused"]
_CHUNK = 512  # prompt tokens that are read at once, so that a long prompt does not hold up the answers under way
_ALL = 2048  # and where none is under way
_WRITTEN = 2  # what a token that is written counts beside one that is read, where keys share
_ALONE = 2  # answers under way up to which tokens are guessed and read with the last one
_log = logging.getLogger("treadle.serve")


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


class Engine:
    """A model with ``slots`` places, and a line of at most ``queue`` answers for which none is free."""

    def __init__(
        self, model: TextModel, tokenizer: Tokenizer, version: Version, slots: int, queue: int,
        template: ChatTemplate | None = None, ends: Sequence[int] = (END_ID,), memory: int | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """``template`` of a model that was trained on conversations; ``ends``: tokens that end an answer; ``memory``: bytes for
        what it has read, None: as much as all slots may need. Raises ``UserError`` where there are ``adapters`` and no kernels."""
        self.model, self.tokenizer, self.version, self.template, self.ends = model, tokenizer, version, template, frozenset(ends)
        self.slots = slots
        self.table = token_bytes(tokenizer, model.vocabulary)
        self._forms = Forms(tokenizer, model.vocabulary, sorted(self.ends))
        self._memory = make_memory(model, slots, memory, adapters)
        self.adapters = {adapter.name: adapter for adapter in adapters}
        self._places = {adapter.name: place for place, adapter in enumerate(adapters)}
        self._line: Line[Answer] = Line(queue)
        self._active: list[Answer] = []
        self._retired = False
        self._seconds = 1.0  # how long an answer takes, a moving mean
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"engine-{version.number}", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """Tokens that prompt and answer share."""
        return self._memory.context

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
        wrong = [token for token in given if not 0 <= token < self.model.vocabulary]
        if wrong or not given:
            message = f"prompt: {wrong[0]} is no token of this model" if wrong else "prompt: there is no token"
            raise RequestError(message, field="prompt", cure=f"ids are 0 to {self.model.vocabulary - 1}")
        for token, _ in settings.sampling.bias:
            if not 0 <= token < self.model.vocabulary:
                cure = f"ids are 0 to {self.model.vocabulary - 1}"
                raise RequestError(f"logit_bias: {token} is no token of this model", field="logit_bias", cure=cure)
        if settings.adapter is not None and settings.adapter not in self.adapters:
            cure = f"version {self.version.number} has {', '.join(self.adapters) or 'none'}"
            raise RequestError(f"there is no adapter {settings.adapter[:100]!r}", status=404, field="model", cure=cure)
        tokens, dropped = self._fit(given, settings)
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        answer = Answer(tokens, dropped, settings, seed, TextStream(self.table, settings.stops), deliver, asker or Asker())
        answer.generator.manual_seed(seed)
        if not settings.sampling.plain:
            answer.adjusted = Adjusted(settings.sampling, tokens, self.model.vocabulary)
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
        if len(kept) > self.context:
            field = "prompt" if settings.truncate is None else "truncate_prompt_tokens"
            message = f"the prompt is {len(kept)} tokens (one marks its start), more than the {self.context} of the model's context"
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

    def let_weights_go(self) -> None:
        """Free the model's own weights where the compiled decoder has laid them out anew: from here the engine alone uses them."""
        if self._memory.has_weights:
            self.model.to("meta")

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

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        torch.set_num_threads(generation_threads(self.model))  # of this thread alone
        while self._take():
            try:
                self._step()
            except Exception:
                _log.exception("the engine of version %s failed in a step; its answers are given up", self.version.number)
                for answer in list(self._active):
                    self._end(answer, "error", "")

    def _take(self) -> bool:
        """Wait for work and give waiting answers the free slots, lowest first; False when all is done and no more will come."""
        with self._wake:
            while not self._line and not self._active:
                if self._retired:
                    return False
                self._wake.wait()
            gone = [answer for answer in self._line if answer.cancelled or answer.asker.late]
            for answer in gone:
                self._line.leave(answer)
            free = sorted(set(range(self.slots)) - {answer.slot for answer in self._active})
            while free and (first := self._line.next()):
                adapter = self._places.get(first.settings.adapter or "", -1)
                known = self._memory.admit(free[0], first.prompt, self._most(first), adapter)
                if known is None:
                    break
                self._line.begin(first)
                self._line.charge(first.asker, len(first.prompt) - known)
                first.slot, first.read, first.known, first.begun = free.pop(0), known, known, time.monotonic()
                first.lookup.push(first.prompt)
                self._active.append(first)
        for answer in gone:
            self._end(answer, "cancelled" if answer.cancelled else "late", "")
        return True

    def _most(self, answer: Answer) -> int:
        """Tokens that a text may have in the end."""
        return min(len(answer.prompt) + answer.settings.max_tokens, self.context)

    def _step(self) -> None:
        """One token or more for every answer under way, together with a piece of each new prompt while there is room."""
        for answer in [answer for answer in self._active if answer.cancelled or answer.asker.late]:
            self._end(answer, "cancelled" if answer.cancelled else "late", "")
        work = []
        writing = [answer for answer in self._active if answer.read == len(answer.prompt)]
        for answer in writing:
            guessed = self._guess(answer) if len(writing) <= _ALONE else []
            work.append((answer, Part(answer.slot, [answer.last, *guessed], 1 + len(guessed))))
        room = _CHUNK if writing else _ALL
        for answer in self._active:
            piece = answer.prompt[answer.read : answer.read + room]
            if piece:
                answer.read += len(piece)
                room -= len(piece)
                work.append((answer, Part(answer.slot, piece, int(answer.read == len(answer.prompt)))))
        for answer, part, scores in self._scores(work):
            if scores:
                self._follow(answer, part.tokens[-part.asked :], scores)

    def _read(self, parts: list[Part]) -> Tensor:
        return self._memory.read_parts(self.model, parts)

    def _scores(self, work: list[tuple[Answer, Part]]) -> list[tuple[Answer, Part, list[Tensor]]]:
        """The scores that each part asks for. Where that fails for all together, as for want of memory, each is read alone, and
        those for which it fails again are given up."""
        if not work:
            return []
        before = [self._memory.lengths[part.slot] for _, part in work]
        try:
            rows = iter(self._read([part for _, part in work]))
            return [(answer, part, [next(rows) for _ in range(part.asked)]) for answer, part in work]
        except Exception:
            _log.exception("a step of version %s failed; its answers are read one by one", self.version.number)
        found = []
        for (answer, part), length in zip(work, before, strict=True):
            try:
                self._memory.go_back(part.slot, length)
                found.append((answer, part, list(self._read([part]))))
            except Exception:
                _log.exception("an answer of version %s failed and is given up", self.version.number)
                self._end(answer, "error", "")
        return found

    def _guess(self, answer: Answer) -> list[int]:
        """Tokens that may follow the last one, so few that all of them fit."""
        left = min(answer.settings.max_tokens - answer.tokens - 1, self._most(answer) - self._memory.lengths[answer.slot] - 1)
        return answer.lookup.guess(left) if self._memory.drafts else []

    def _follow(self, answer: Answer, tokens: list[int], scores: list[Tensor]) -> None:
        """Write from the scores behind each of ``tokens``, as long as what is written is the token that was guessed."""
        for place, row in enumerate(scores):
            self._write(answer, row)
            guessed = tokens[place + 1 :]
            if not guessed or answer.finish_reason is not None:
                return
            if answer.last != guessed[0]:
                self._memory.take_back(answer.slot, len(guessed))
                return

    def _write(self, answer: Answer, scores: Tensor) -> None:
        """Write ``answer``'s next token from ``scores`` (V,). One that fails, as a form does that grows too large, ends alone."""
        try:
            self._draw(answer, scores)
        except Exception:
            _log.exception("an answer of version %s failed and is given up", self.version.number)
            if answer.finish_reason is None:
                self._end(answer, "error", "")

    def _draw(self, answer: Answer, scores: Tensor) -> None:
        """Draw ``answer``'s next token from ``scores`` (V,), and give out the text that it makes certain."""
        how = answer.settings
        wanted = answer.adjusted(scores) if answer.adjusted else scores
        wanted = answer.constraint.limited(wanted) if answer.constraint else wanted
        token = sample(wanted, how.sampling, answer.generator)
        if answer.first is None:
            answer.first = time.monotonic()
        if token in self.ends:
            self._end(answer, "stop", answer.stream.finish())
            return
        self._push(answer, token)
        about = () if how.likely is None else (likely(scores, token, how.likely),)
        text = answer.stream.push(token)
        if answer.stream.stopped:
            self._end(answer, "stop", text, about)
        elif answer.constraint is not None and answer.constraint.complete:
            self._end(answer, "stop", text + answer.stream.finish(), about)
        elif len(answer.prompt) + answer.tokens > self.context or answer.tokens == how.max_tokens:
            self._end(answer, "length", text + answer.stream.finish(), about)
        else:
            _deliver(answer, text, None, about)

    def _push(self, answer: Answer, token: int) -> None:
        answer.last = token
        answer.tokens += 1
        self._line.charge(answer.asker, _WRITTEN)
        for kept in (answer.adjusted, answer.constraint):
            if kept is not None:
                kept.push(token)
        answer.lookup.push([token])

    def _end(self, answer: Answer, reason: FinishReason, text: str, about: tuple[Likely, ...] = ()) -> None:
        answer.finish_reason = reason
        with self._wake:
            if answer in self._active:
                self._active.remove(answer)
                self._memory.release(answer.slot)
                self._line.end(answer.asker)
        if reason in ("stop", "length"):
            self._seconds += 0.2 * (time.monotonic() - answer.started - self._seconds)
        _deliver(answer, text, reason, about)


def _deliver(answer: Answer, text: str, reason: FinishReason | None = None, about: tuple[Likely, ...] = ()) -> None:
    """Hand a piece over; if no one is there to take it, the answer is in vain."""
    try:
        answer.deliver(Piece(text, reason, answer.tokens, about))
    except RuntimeError:  # the event loop that waited for it is closed
        answer.cancel()
