"""A version whose texts vLLM writes, in a process of its own: it gets ids of tokens, and gives ids of tokens back. Who is next, how
long each may take, what becomes text and where it ends is decided here, as with the other engine."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from treadle.core.errors import RequestError, UserError, WorkError
from treadle.core.progress import say
from treadle.model.hub import load_shape
from treadle.model.network import FILE as NETWORK
from treadle.model.sampling import COLDEST, Likely
from treadle.model.template import ChatTemplate
from treadle.serve.child import Call, Child, NotReached, find_program
from treadle.serve.constraint import SPACE, Form
from treadle.serve.version import Version
from treadle.serve.writer import Answer, Writer, log
from treadle.spec.shape import Shape

_LONGEST = 1800.0  # seconds that vLLM may take to start: it compiles large models for minutes
_TELL = 10.0  # seconds between words of progress while it starts
_TICK = 0.02  # seconds between looks at who has gone, while answers are under way
_START = 0.1  # and at whether it is ready, while it starts
_IDLE = 1.0  # and at whether it still runs, while none is
_TRIES = 3  # starts in a row that may fail, or end without an answer, before those who wait are told so
_PAUSE = 30.0  # seconds before it is tried again after that
_BLOCK = 128  # tokens of a page of its memory; 16 on most accelerators, 128 on processors
_SPACED = {
    "whitespace_flexible": False, "item_separator": f"{SPACE},{SPACE}", "key_separator": f"{SPACE}:{SPACE}",
}
"""Where JSON may have spaces: less than the other engine allows, since the llguidance that vLLM has (1.7) sets them no bound."""


class VllmEngine(Writer):
    """The package in ``folder``, in a public layout. ``memory``: bytes for what it has read; it takes no more than all slots may
    need, and room for one whole context in any case. ``options`` are put behind its own; ``stop`` ends a start that takes long.

    Raises ``UserError`` where there is no vLLM, or it cannot open such a package; ``WorkError`` where it does not start.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, version: Version, slots: int, queue: int, template: ChatTemplate | None,
        ends: Sequence[int], memory: int, options: Sequence[str], stop: threading.Event,
    ) -> None:
        shape, kind = _suited(folder)
        super().__init__(tokenizer, shape.vocabulary, version, slots, queue, template, ends)
        self._context, self._folder, self._program = shape.context, folder, find_program()
        self._options = [*_options(shape, kind, slots, memory), *options]
        self._child: Child
        self._up: bool  # it takes requests
        self._doubt: bool  # it may not: an answer has failed
        self._calls: dict[Answer, Call] = {}
        self._failed = 0  # starts in a row that came to nothing
        self._next: float  # when it is tried again (monotonic seconds); 0: it runs, or is starting
        self._launch()
        try:
            while not self._up:
                if stop.wait(_START):
                    raise WorkError("the start of vLLM was broken off: the server stops")
                if self._look_at_start():
                    raise _not_started(version, self._child)
        except BaseException:
            self._child.stop()
            raise
        self._thread.start()

    @property
    def context(self) -> int:
        return self._context

    @property
    def stalled(self) -> str | None:
        """While vLLM is not there; what is asked meanwhile waits, unless it did not start several times in a row."""
        again = self._next
        if self._up:
            return None
        if again:
            return f"vLLM does not start, and is tried again in {max(0.0, again - time.monotonic()):.0f} s"
        return "vLLM is starting"

    @property
    def room(self) -> int:
        """vLLM keeps a place for the last token too."""
        return self._context

    def prepare(self, *given: Any, **more: Any) -> Answer:
        if self._failed >= _TRIES and not self._up:
            cure = "ask again later; the server's log says more"
            raise RequestError("what writes the answers does not start", status=503, cure=cure)
        return super().prepare(*given, **more)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._take():
                self._watch()
        finally:
            self._child.stop()

    def _take(self) -> bool:
        """Wait a little, give waiting answers the free places, and give up those that are in vain; False when all is done and no
        more will come."""
        with self._wake:
            busy = self._line or self._active
            if self._retired and not busy:
                return False
            if not (self._ready and self._line):
                self._wake.wait(_START if not self._up else _TICK if busy else _IDLE)
            gone = self._gone()
            while self._ready and (first := self._line.next()):
                self._line.begin(first)
                self._line.charge(first.asker, len(first.prompt))
                first.begun = time.monotonic()
                self._active.append(first)
                self._calls[first] = Call(self._child)
                threading.Thread(target=self._answer, args=(first, self._calls[first]), name="vllm-answer", daemon=True).start()
            broken = [call for answer, call in self._calls.items() if answer.cancelled or answer.asker.late]
        for call in broken:
            call.close()
        self._give_up(gone)
        return True

    @property
    def _ready(self) -> bool:
        """Whether an answer may begin now."""
        return self._up and not self._doubt and len(self._active) < self.slots

    def _watch(self) -> None:
        """Start it anew where it has ended or does not start; where that fails again and again, tell those who wait, and rest."""
        if self._up and self._doubt and self._child.code is None:
            self._doubt = not self._child.well()
            if self._doubt:  # it takes no requests any more, so it is as good as ended
                self._child.let_go()
        if self._up and self._child.code is not None:
            say(f"vLLM of version {self.version.number} has ended (exit code {self._child.code})")
            self._start_anew()
        elif self._next and time.monotonic() > self._next:
            self._launch()
        elif not self._up and not self._next and self._look_at_start():
            self._child.stop()
            say(str(_not_started(self.version, self._child)))
            self._start_anew()
        if self._next:
            for answer in tuple(self._line):
                self._leave(answer)

    def _start_anew(self) -> None:
        self._up, self._failed = False, self._failed + 1
        if self._failed < _TRIES:
            self._launch()
        else:
            self._next = time.monotonic() + _PAUSE
            say(f"vLLM of version {self.version.number} is tried again in {_PAUSE:.0f} s")

    def _leave(self, answer: Answer) -> None:
        with self._wake:
            if answer not in tuple(self._line):
                return
            self._line.leave(answer)
        self._end(answer, "error", "")

    def _launch(self) -> None:
        self._up, self._doubt, self._next, self._began, self._told = False, False, 0.0, time.monotonic(), 0.0
        say(f"Starting vLLM for version {self.version.number}")
        self._child = Child(self._program, self._folder, self._options)

    def _look_at_start(self) -> bool:
        """Whether the start has failed; ``_up`` where it is done."""
        took = time.monotonic() - self._began
        if self._child.well():
            self._up = True
            say(f"vLLM for version {self.version.number} is ready after {took:.0f} s")
        elif took - self._told > _TELL:
            self._told = took
            say(f"vLLM for version {self.version.number} is starting, {took:.0f} s so far")
        return not self._up and (self._child.code is not None or took > _LONGEST)

    # -- a thread for each answer -------------------------------------------------------------------------------------

    def _answer(self, answer: Answer, call: Call) -> None:
        try:
            self._follow(answer, call)
            self._failed = 0
        except NotReached:
            self._put_back(answer)
        except Exception as error:
            if answer.finish_reason is not None:
                return
            if answer.cancelled or answer.asker.late:
                self._give_up([answer])
                return
            log.error("an answer of version %s failed and is given up: %s", self.version.number, _plain(error))
            self._doubt = self._doubt or call.child is self._child  # before its place is free, so that no other falls into the same
            self._end(answer, "error", "")

    def _put_back(self, answer: Answer) -> None:
        """Nothing was begun: it waits until vLLM is there again."""
        with self._wake:
            self._doubt = True
            self._active.remove(answer)
            self._free(answer)
            self._line.charge(answer.asker, -len(answer.prompt))
            self._line.put_back(answer)

    def _follow(self, answer: Answer, call: Call) -> None:
        """Take tokens until the answer ends. The last of them are held back until it is known how much of the prompt was."""
        events = call.events(_body(answer, self.room, sorted(self.ends)))
        for event in events:
            choices = event.get("choices") or ()
            for choice in choices:
                reason = choice.get("finish_reason")
                if reason is not None:
                    answer.known = _known(list(events))
                self._take_choice(answer, choice)
                if answer.finish_reason is None and reason in ("stop", "length"):
                    self._end(answer, reason, answer.stream.finish())
            if answer.finish_reason is not None:
                events.close()
                return
        raise ConnectionError("vLLM ended an answer without saying why")

    def _take_choice(self, answer: Answer, choice: dict[str, Any]) -> None:
        tokens = choice["token_ids"]
        about = _likely(choice, tokens, answer.settings.likely)
        for token, one in zip(tokens, about, strict=True):
            if not 0 <= token < self.vocabulary:
                raise ValueError("vLLM gave a token that the model does not have")
            if answer.finish_reason is None:
                self._add(answer, token, one)

    def _push(self, answer: Answer, token: int) -> None:
        with self._wake:  # several threads write
            super()._push(answer, token)

    def _free(self, answer: Answer) -> None:
        self._calls.pop(answer)
        self._wake.notify()


def _suited(folder: Path) -> tuple[Shape, str]:
    """The sizes of a package that vLLM can open, and the type of its weights. Raises ``UserError``, ``ArtifactError``."""
    if (folder / NETWORK).exists():
        message = "vLLM opens models in a public layout, and this one is a network of this project's own"
        raise UserError(message, cure="set 'serve.engine: treadle'")
    shape, quantized, kind = load_shape(folder)
    if quantized:
        cure = "set 'compress: {quantize: none}' and run again, or 'serve.engine: treadle'"
        raise UserError(f"vLLM cannot open a package with this project's {quantized} weights", cure=cure)
    return shape, kind


def _options(shape: Shape, kind: str, slots: int, memory: int) -> list[str]:
    """How vLLM is started: numbers of the type that was measured, and memory that leaves room for the next version beside it."""
    token = 2 * shape.depth * shape.kv_heads * shape.head_dim * (4 if kind == "float32" else 2)  # bytes of keys and values
    each = (-(-shape.context // _BLOCK) + 1) * _BLOCK * token
    given = {
        "--max-num-seqs": slots, "--max-model-len": shape.context, "--dtype": kind,
        "--kv-cache-memory-bytes": max(2 * each, min(memory, (slots + 1) * each)),
        "--gpu-memory-utilization": 0.05,  # checked before the bytes above are taken, and free in any case
        "--generation-config": "vllm",  # what a request leaves out is as the API says, not as the package does
        "--max-logprobs": 20, "--logprobs-mode": "raw_logprobs",
        "--structured-outputs-config.backend": "guidance",
    }
    return [*(part for name, value in given.items() for part in (name, str(value))),
            "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]


def _body(answer: Answer, room: int, ends: Sequence[int]) -> dict[str, Any]:
    """What vLLM is asked."""
    how, sampling = answer.settings, answer.settings.sampling
    given: dict[str, Any] = {
        "prompt": answer.prompt, "add_special_tokens": False, "max_tokens": min(how.max_tokens, room - len(answer.prompt)),
        "temperature": 0.0 if sampling.temperature < COLDEST else sampling.temperature, "top_p": sampling.top_p,
        "top_k": sampling.top_k, "min_p": sampling.min_p, "presence_penalty": sampling.presence,
        "frequency_penalty": sampling.frequency, "repetition_penalty": sampling.repetition,
        "seed": answer.seed & (2**63 - 1),  # -1 would be none
        "stop_token_ids": list(ends), "skip_special_tokens": False, "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    if answer.asker.key:
        given["cache_salt"] = hashlib.sha256(answer.asker.key.encode()).hexdigest()  # keys share nothing of what was read
    if sampling.bias:
        bias: Counter[str] = Counter()
        for token, amount in sampling.bias:
            bias[str(token)] += amount  # type: ignore[assignment]
        given["logit_bias"] = bias
    if how.likely is not None:
        given |= {"logprobs": how.likely, "return_tokens_as_token_ids": True}
    return given | ({"structured_outputs": _form(how.form)} if how.form else {})


def _form(form: Form) -> dict[str, Any]:
    if form.kind == "regex":
        return {"regex": form.text}
    value = json.loads(form.text)
    return {"choice": value} if form.kind == "choice" else {"json": {**value, "x-guidance": _SPACED}}


def _known(rest: Sequence[dict[str, Any]]) -> int:
    """Tokens of the prompt that an earlier answer had read, as the last events say."""
    for event in rest:
        details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
        if "cached_tokens" in details:
            return int(details["cached_tokens"])
    return 0


def _likely(choice: dict[str, Any], tokens: Sequence[int], count: int | None) -> list[tuple[Likely, ...]]:
    """What is told of each token: nothing where it was not asked for."""
    if count is None:
        return [()] * len(tokens)
    given, found = choice["logprobs"], list[tuple[Likely, ...]]()
    for token, value, top in zip(tokens, given["token_logprobs"], given["top_logprobs"], strict=True):
        ordered = sorted(((int(name.removeprefix("token_id:")), lp) for name, lp in top.items()), key=lambda pair: -pair[1])
        found.append((Likely(token, value, tuple(ordered[:count])),))
    return found


def _not_started(version: Version, child: Child) -> WorkError:
    code = "it takes too long" if child.code is None else f"exit code {child.code}"
    lines = child.last_lines()
    message = f"vLLM does not start for version {version.number} ({code})" + (f"; it wrote last:\n{lines}" if lines else "")
    cure = "mend what it says, with 'serve.engine_options' where an option is at fault; or set 'serve.engine: treadle'"
    return WorkError(message, cure=cure)


def _plain(error: Exception) -> str:
    """What may stand in a log: none of the request."""
    return str(error) if isinstance(error, ConnectionError) or str(error).startswith("vLLM ") else type(error).__name__
