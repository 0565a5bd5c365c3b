"""What is asked for, from the checked request to the engine: texts to continue, conversations, records, vectors."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import anyio.to_thread
from starlette.responses import JSONResponse

from treadle.core.errors import RequestError
from treadle.data.schema import Schema
from treadle.model.sampling import Sampling
from treadle.serve.answers import Finished, may_store
from treadle.serve.asked import Predicted, asked
from treadle.serve.constraint import Form
from treadle.serve.embeddings import Texts
from treadle.serve.filing import Filer
from treadle.serve.forms import ChatForm, CompletionForm, ReplyForm
from treadle.serve.limits import asker, charge
from treadle.serve.line import Asker
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.predictions import parse_rows, prediction_rows, until_done
from treadle.serve.predictor import Prediction, Predictor, Row
from treadle.serve.replies import Reply
from treadle.serve.route import Route
from treadle.serve.schema import Asking, ChatRequest, Columns, CompletionRequest, EmbeddingRequest, PredictRequest, Pressing
from treadle.serve.shadow import Asked, Shadows
from treadle.serve.writer import Answer, Piece, Settings, Writer
from treadle.spec.stages import Serve
from treadle.store.ledger import Ledger
from treadle.store.tables import random_id

_TOKENS = 16  # OpenAI's default for max_tokens of a completion
_FEW, _SHORT = 8, 1000  # records, and characters of a value, that are read on the event loop
_log = logging.getLogger("treadle.serve")
T = TypeVar("T")
Prompt = str | list[int]
"""A text, or ids of its tokens."""


class Desk:
    """What answering needs: the project's name, the live model, where answers are filed, and the figures."""

    def __init__(
        self, name: str, settings: Serve, live: LiveModel, ledger: Ledger, monitor: Monitor, others: Sequence[str] = ()
    ) -> None:
        """``others`` are models that the same server has beside this one."""
        self._models = [name, *settings.adapters, *others]
        self.name, self.settings, self.live, self.filer, self.monitor = name, settings, live, Filer(ledger), monitor
        self.shadows = Shadows(live, ledger, monitor)

    async def complete(self, request: CompletionRequest, route: Route) -> Reply:
        """Put ``request`` in line. Raises ``RequestError``."""
        how = self._how(request, request.max_tokens, _TOKENS, request.logprobs, None)
        prompts = [_given(prompt) for prompt in request.prompts for _ in range(request.n or 1)]
        form = CompletionForm(request.logprobs is not None)
        return await self._ask(request, prompts, how, form, request.truncate_prompt_tokens, route)

    async def chat(self, request: ChatRequest, route: Route) -> Reply:
        """Put ``request`` in line. Raises ``RequestError``."""
        asked = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
        top = (request.top_logprobs or 0) if request.logprobs else None
        how = self._how(request, asked, self.settings.max_tokens, top, _form(request))
        tools = request.tools if request.tool_choice != "none" else None
        messages = [message.plain() for message in request.messages]

        def render(engine: Writer) -> list[int]:
            if engine.template is None:
                cure = "ask POST /v1/completions; a model that was trained on conversations brings a chat_template.jinja"
                raise RequestError("this model has no template of conversations", status=404, cure=cure)
            return engine.template.tokens(messages, tools)

        return await self._ask(request, [render] * (request.n or 1), how, ChatForm(top is not None, bool(tools)), None, route)

    def _how(self, request: Asking, asked: int | None, usual: int, likely: int | None, form: Form | None) -> Settings:
        limit = self.settings.max_tokens
        if asked is not None and asked > limit:
            message = f"max_tokens: {asked} is more than {limit}"
            raise RequestError(message, field="max_tokens", cure=f"ask for at most {limit}, or raise 'serve.max_tokens'")
        sampling = Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p, top_k=max(0, request.top_k or 0), min_p=request.min_p or 0.0,
            presence=request.presence_penalty or 0.0, frequency=request.frequency_penalty or 0.0,
            repetition=1.0 if request.repetition_penalty is None else request.repetition_penalty,
            bias=tuple((int(id), amount) for id, amount in (request.logit_bias or {}).items()),
        )
        if request.structured_outputs is not None:
            form = Form.of(*request.structured_outputs.form)
        longest = min(usual, limit) if asked is None else asked
        return Settings(longest, sampling, tuple(request.stop or ()), likely=likely, form=form)

    async def _ask(
        self, request: Asking, prompts: Sequence[Callable[[Writer], Prompt]], how: Settings, form: ReplyForm, truncate: int | None,
        route: Route,
    ) -> Reply:
        """One answer to each of ``prompts``, which are made for the version that will answer."""
        adapter = request.model if request.model in self.settings.adapters else None
        self._check(self.name if adapter else request.model)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]]()
        stored, finished, who = may_store(self.settings.store, request.store), list[Finished](), self._asker(request)
        for index, prompt in enumerate(prompts):

            def deliver(piece: Piece, index: int = index) -> None:  # called by the engine's thread
                loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

            seed = None if request.seed is None else (request.seed + index + 2**63) % 2**64 - 2**63
            one, text = replace(how, seed=seed, truncate=truncate, adapter=adapter), ""

            def make(engine: Writer, prompt: Callable[[Writer], Prompt] = prompt, one: Settings = one) -> Answer:
                nonlocal text
                given = prompt(engine)
                answer = engine.prepare(given, one, deliver, who)
                text = given if isinstance(given, str) else engine.tokenizer.decode(given, skip_special_tokens=False)
                return answer

            try:
                engine, answer = await anyio.to_thread.run_sync(self.live.ask, make, route)
            except BaseException:
                for begun in finished:
                    begun.answer.cancel()
                raise
            again = _again(prompt, replace(one, seed=answer.seed))
            id = random_id(form.prefix)
            finished.append(Finished(id, engine, answer, text, stored, route.rollout, again))
        ended = functools.partial(self._ended, route)
        return Reply(request.model, self.filer, self.monitor, finished, request, form, pieces, ended)

    def _ended(self, route: Route, one: Finished) -> None:
        """An answer to a user has ended."""
        reason, version = one.answer.finish_reason, one.engine.version.number
        if reason in ("stop", "length", "error"):  # not where the client went away, or its time was over
            self.live.ended(one.rollout, version, reason != "error")
        if reason in ("stop", "length"):
            self.shadows.text(one, route)

    def _asker(self, request: Pressing) -> Asker:
        given = [seconds for seconds in (request.timeout, self.settings.deadline) if seconds is not None]
        return asker(request.priority, min(given, default=None))

    def _check(self, model: str | None) -> None:
        if model is not None and model != self.name:
            self.unknown(model)
        if self.live.draining:
            raise RequestError("the server is stopping", status=503, cure="ask again when it is back")

    def unknown(self, model: str) -> NoReturn:
        """Raises ``RequestError`` 404, which says which models there are."""
        cure = f"this server has {', '.join(map(repr, self._models))}"
        raise RequestError(f"there is no model {model[:100]!r}", status=404, field="model", cure=cure)

    async def predict(self, request: PredictRequest, route: Route) -> JSONResponse:
        """Answer about ``request``'s records. Raises ``RequestError``."""
        self._check(request.model)
        raw = request.rows
        worker, found, more = await self._predicted(raw, lambda schema: parse_rows(schema, raw), request, request.store, route)
        ids = more.pop("ids")
        predictions = [{"id": id, "heads": answer} for id, answer in zip(ids, found, strict=True)]
        return _told(worker, {"object": "predictions", "model": self.name, **more, "predictions": predictions})

    async def embed(self, request: EmbeddingRequest, route: Route) -> JSONResponse:
        """The vectors of ``request``'s texts. Raises ``RequestError``."""
        self._check(request.model)
        texts = request.texts
        asked: Texts | None = None

        def parse(schema: Schema) -> list[Row]:
            nonlocal asked
            asked = Texts(schema, texts)
            return asked.rows

        worker, found, more = await self._predicted([{"input": text} for text in texts], parse, request, None, route)
        assert asked is not None
        data = asked.data(found, request.dimensions, request.encoding_format or "float")
        ids = more.pop("ids")
        data = [vector | {"id": id} for vector, id in zip(data, ids, strict=True)]
        usage = {"prompt_tokens": asked.tokens, "total_tokens": asked.tokens}
        return _told(worker, {"object": "list", "data": data, "model": self.name, "usage": usage, **more})

    async def _predicted(
        self, raw: Sequence[Columns], parse: Callable[[Schema], Sequence[Row]], request: Pressing, store: bool | None, route: Route
    ) -> tuple[Predictor, list[Prediction], dict[str, Any]]:
        """What the heads answer to the rows that ``parse`` makes of ``raw``, counted and filed; and what a response says of that:
        ``version``, ``stored`` and ``ids``, which are empty where the ledger cannot be written."""
        started = time.monotonic()
        few, who = _few(raw), self._asker(request)
        worker, rows, future = await _aside(few, lambda: self.live.predict(parse, route, few, who))
        number = worker.version.number
        try:
            found: list[Prediction] = await until_done(future)
        except RequestError as error:
            if error.status == 500:
                self.live.ended(route.rollout, number, False)
            raise
        self.live.ended(route.rollout, number, True)
        stored = may_store(self.settings.store, store)
        answered = Predicted(worker, rows, found, started, next(iter(who.begun), None), time.monotonic())
        self.monitor.predicted(answered)
        charge(predictions=len(rows))
        ids: list[str] = [""] * len(found)
        try:
            filed = await _aside(
                few or not stored, lambda: prediction_rows(worker, raw, rows, found, stored, started, route.rollout)
            )
            await self.filer.file(filed)
            ids = [row["id"] for row in filed]
            self.shadows.records(Asked(raw, parse, found, ids, stored, filed[0]["seconds"]), route)
        except Exception as error:
            self.monitor.not_recorded()
            _log.error("predictions could not be written to the ledger: %s", error)
        if (one := asked()) is not None:
            one.predicted.append(answered)
            one.filed.append((answered.ended, time.monotonic()))
        return worker, found, {"version": worker.version.number, "stored": stored, "ids": ids}


def _few(raw: Sequence[Columns]) -> bool:
    """Whether so little is asked about that it is read sooner than a thread has begun."""
    if len(raw) > _FEW:
        return False
    for row in raw:
        for value in row.values():
            if not isinstance(value, (int, float)) and len(value if isinstance(value, str) else str(value)) > _SHORT:
                return False
    return True


async def _aside(few: bool, work: Callable[[], T]) -> T:
    """Off the event loop, unless there is little to do."""
    return work() if few else await anyio.to_thread.run_sync(work)


def _told(worker: Predictor, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, headers={"x-treadle-version": str(worker.version.number), "cache-control": "no-store"})


def _again(prompt: Callable[[Writer], Prompt], how: Settings) -> Callable[[Writer, Callable[[Piece], None]], Answer]:
    return lambda engine, deliver: engine.prepare(prompt(engine), how, deliver)


def _given(prompt: Prompt) -> Callable[[Writer], Prompt]:
    return lambda engine: prompt


def _form(request: ChatRequest) -> Form | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.given if wanted.json_schema else {"type": "object"}
    return Form.of("json_schema", schema, "response_format")
