"""One version at work: a thread that writes all answers of the moment together, one token each per step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from treadle.data.shards import END_ID
from treadle.model.adapter import Adapter
from treadle.model.generate import PROCESSOR, generation_threads, make_memory
from treadle.model.memory import Part, TextModel
from treadle.model.sampling import likely, sample
from treadle.model.template import ChatTemplate
from treadle.serve.version import Version
from treadle.serve.writer import Answer, Piece, Settings, Writer, log

__all__ = ["Answer", "Engine", "Piece", "Settings"]

_CHUNK = 512  # prompt tokens that are read at once, so that a long prompt does not hold up the answers under way
_ALL = 2048  # and where none is under way
_ALONE = 2  # answers under way up to which tokens are guessed and read with the last one


class Engine(Writer):
    """The models of this project, on this machine: on its GPU where it has one, else on its processors."""

    def __init__(
        self, model: TextModel, tokenizer: Tokenizer, version: Version, slots: int, queue: int,
        template: ChatTemplate | None = None, ends: Sequence[int] = (END_ID,), memory: int | None = None,
        adapters: Sequence[Adapter] = (), device: torch.device = PROCESSOR,
    ) -> None:
        """``template`` of a model that was trained on conversations; ``ends``: tokens that end an answer; ``memory``: bytes on the
        ``device`` for what it has read, None: as much as all slots may need."""
        super().__init__(tokenizer, model.vocabulary, version, slots, queue, template, ends)
        self.model = model
        self._memory = make_memory(model, slots, memory, adapters, device)
        self.adapters = {adapter.name: adapter for adapter in adapters}
        self._places = {adapter.name: place for place, adapter in enumerate(adapters)}
        self._thread.start()

    @property
    def context(self) -> int:
        return self._memory.context

    def let_weights_go(self) -> None:
        """Free the model's own weights where the compiled decoder has laid them out anew: from here the engine alone uses them."""
        if self._memory.has_weights:
            self.model.to("meta")

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        torch.set_num_threads(generation_threads(self.model))  # of this thread alone
        while self._take():
            try:
                self._step()
            except Exception:
                log.exception("the engine of version %s failed in a step; its answers are given up", self.version.number)
                for answer in list(self._active):
                    self._end(answer, "error", "")

    def _take(self) -> bool:
        """Wait for work and give waiting answers the free slots, lowest first; False when all is done and no more will come."""
        with self._wake:
            while not self._line and not self._active:
                if self._retired:
                    return False
                self._wake.wait()
            gone = self._gone()
            free = sorted(set(range(self.slots)) - {answer.slot for answer in self._active})
            while free and (first := self._line.next()):
                adapter = self._places.get(first.settings.adapter or "", -1)
                known = self._memory.admit(free[0], first.prompt, self._most(first), adapter, first.asker.key)
                if known is None:
                    break
                self._line.begin(first)
                self._line.charge(first.asker, len(first.prompt) - known)
                first.slot, first.read, first.known, first.begun = free.pop(0), known, known, time.monotonic()
                first.lookup.push(first.prompt)
                self._active.append(first)
        self._give_up(gone)
        return True

    def _most(self, answer: Answer) -> int:
        """Tokens that a text may have in the end."""
        return min(len(answer.prompt) + answer.settings.max_tokens, self.context)

    def _step(self) -> None:
        """One token or more for every answer under way, together with a piece of each new prompt while there is room."""
        self._give_up([answer for answer in self._active if answer.cancelled or answer.asker.late])
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
            log.exception("a step of version %s failed; its answers are read one by one", self.version.number)
        found = []
        for (answer, part), length in zip(work, before, strict=True):
            try:
                self._memory.go_back(part.slot, length)
                found.append((answer, part, list(self._read([part]))))
            except Exception:
                log.exception("an answer of version %s failed and is given up", self.version.number)
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
            log.exception("an answer of version %s failed and is given up", self.version.number)
            if answer.finish_reason is None:
                self._end(answer, "error", "")

    def _draw(self, answer: Answer, scores: Tensor) -> None:
        """Draw ``answer``'s next token from ``scores`` (V,), and give out the text that it makes certain."""
        how = answer.settings
        wanted = answer.adjusted(scores) if answer.adjusted else scores
        wanted = answer.constraint.limited(wanted) if answer.constraint else wanted
        token = sample(wanted, how.sampling, answer.generator)
        about = () if how.likely is None or token in self.ends else (likely(scores, token, how.likely),)
        self._add(answer, token, about)

    def _push(self, answer: Answer, token: int) -> None:
        super()._push(answer, token)
        answer.last = token
        if answer.adjusted is not None:
            answer.adjusted.push(token)
        answer.lookup.push([token])

    def _free(self, answer: Answer) -> None:
        self._memory.release(answer.slot)
