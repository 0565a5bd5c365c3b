"""POST /v1/completions: from the checked request to OpenAI's response, at once or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio.to_thread
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from treadle.core.errors import RequestError
from treadle.serve.answers import Finished, may_store, record_answer
from treadle.serve.engine import Piece, Settings
from treadle.serve.failures import error_object, failure
from treadle.serve.live import LiveModel
from treadle.serve.monitor import Monitor
from treadle.serve.predictions import parse_rows, record_predictions, until_done
from treadle.serve.schema import CompletionRequest, PredictRequest, StreamOptions
from treadle.spec.stages import Serve
from treadle.store.ledger import Ledger

_TOKENS = 16  # OpenAI's default for max_tokens
_log = logging.getLogger("treadle.serve")


class Desk:
    """What answering needs: the project's name, the live model, where answers are filed, and the figures."""

    def __init__(self, name: str, settings: Serve, live: LiveModel, ledger: Ledger, monitor: Monitor) -> None:
        self.name, self.settings, self.live, self.ledger, self.monitor = name, settings, live, ledger, monitor

    async def ask(self, request: CompletionRequest) -> Reply:
        """Put ``request`` in line. Raises ``RequestError``."""
        if request.model != self.name:
            cure = f"this server has {self.name!r}"
            raise RequestError(f"there is no model {request.model[:100]!r}", status=404, field="model", cure=cure)
        if self.live.draining:
            raise RequestError("the server is stopping", status=503, cure="ask again when it is back")
        limit = self.settings.max_tokens
        if request.max_tokens is not None and request.max_tokens > limit:
            message = f"max_tokens: {request.max_tokens} is more than {limit}"
            raise RequestError(message, field="max_tokens", cure=f"ask for at most {limit}, or raise 'serve.max_tokens'")
        how = Settings(
            max_tokens=min(_TOKENS, limit) if request.max_tokens is None else request.max_tokens,
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            stops=tuple(request.stop or ()), seed=request.seed, truncate=request.truncate_prompt_tokens,
        )
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def deliver(piece: Piece) -> None:  # called by the engine's thread
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        engine, answer = await anyio.to_thread.run_sync(self.live.ask, request.prompt, how, deliver)
        stored = may_store(self.settings.store, request.store)
        return Reply(self, Finished(f"cmpl-{secrets.token_hex(16)}", engine, answer, request.prompt, stored), request, pieces)


    async def predict(self, request: PredictRequest) -> JSONResponse:
        """Answer about ``request``'s records. Raises ``RequestError``."""
        if request.model is not None and request.model != self.name:
            raise RequestError(
                f"there is no model {request.model[:100]!r}", status=404, field="model", cure=f"this server has {self.name!r}"
            )
        if self.live.draining:
            raise RequestError("the server is stopping", status=503, cure="ask again when it is back")
        started, raw = time.monotonic(), request.rows
        worker, rows, future = await anyio.to_thread.run_sync(self.live.predict, lambda schema: parse_rows(schema, raw))
        found = await until_done(future)
        stored = may_store(self.settings.store, request.store)
        self.monitor.answers.labels("stop").inc(len(found))
        self.monitor.total.observe(time.monotonic() - started)
        ids: list[str] = [""] * len(found)
        try:
            ids = await anyio.to_thread.run_sync(
                record_predictions, self.ledger, worker, raw, rows, found, stored, started
            )
        except Exception as error:
            self.monitor.unrecorded.inc()
            _log.error("predictions could not be written to the ledger: %s", error)
        predictions = [{"id": id, **({"heads": answer})} for id, answer in zip(ids, found, strict=True)]
        version = worker.version.number
        body = {"object": "predictions", "model": self.name, "version": version, "stored": stored, "predictions": predictions}
        return JSONResponse(body, headers={"x-treadle-version": str(version), "cache-control": "no-store"})


class Reply:
    """One answer on its way to a client."""

    def __init__(self, desk: Desk, answer: Finished, request: CompletionRequest, pieces: asyncio.Queue[Piece]) -> None:
        self._desk, self._filed, self._request, self._pieces = desk, answer, request, pieces
        self._created = int(time.time())
        self.headers = {"x-treadle-version": str(answer.engine.version.number), "cache-control": "no-store"}

    async def response(self, receive: Receive) -> Response:
        """The response, whole or as a stream. A client that goes away frees its slot."""
        if self._request.stream:
            return _EventStream(self)
        text = ""
        async with aclosing(self.pieces(receive)) as pieces:
            async for piece in pieces:
                text += piece.text
        if error := self.error():
            return failure(error)
        return JSONResponse(self.chunk(text, self.reason) | {"usage": self.usage(self._filed.answer.tokens)}, headers=self.headers)

    async def pieces(self, receive: Receive) -> AsyncGenerator[Piece, None]:
        """The answer's pieces. The last one is given when the answer stands in the ledger, so that feedback finds it there."""
        answer = self._filed.answer
        watch = asyncio.create_task(_gone(receive, answer.cancel))
        filed = False
        try:
            while not filed:
                piece = await self._pieces.get()
                if piece.finish_reason is not None:
                    filed = True
                    await asyncio.shield(asyncio.create_task(self._file()))
                yield piece
        finally:
            watch.cancel()
            if not filed:  # this task is being ended: the answer is filed all the same
                answer.cancel()
                await asyncio.shield(asyncio.create_task(self._abandoned()))

    async def _abandoned(self) -> None:
        while (await self._pieces.get()).finish_reason is None:
            pass
        await self._file()

    async def _file(self) -> None:
        """Count the answer and write it to the ledger, off the event loop. An answer is not withheld if that fails."""
        answer, monitor = self._filed.answer, self._desk.monitor
        monitor.answers.labels(self.reason).inc()
        monitor.tokens.labels("prompt").inc(len(answer.prompt))
        monitor.tokens.labels("answer").inc(answer.tokens)
        monitor.total.observe(time.monotonic() - answer.started)
        if answer.first is not None:
            monitor.first_token.observe(answer.first - answer.started)
        try:
            await anyio.to_thread.run_sync(record_answer, self._desk.ledger, self._filed)
        except Exception as error:
            monitor.unrecorded.inc()
            _log.error("answer %s could not be written to the ledger: %s", self._filed.id, error)

    @property
    def reason(self) -> str:
        return self._filed.answer.finish_reason or "cancelled"

    def error(self) -> RequestError | None:
        """Why there is no whole answer, if so."""
        if self.reason == "error":
            return RequestError("the model failed at this answer", status=500, cure="ask again; the server's log says why")
        if self.reason == "cancelled":
            return RequestError("the server is stopping", status=503, cure="ask again when it is back")
        return None

    def chunk(self, text: str, reason: str | None) -> dict[str, Any]:
        """OpenAI's completion object, with ``version`` and ``stored`` beside its fields."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {
            "id": self._filed.id, "object": "text_completion", "created": self._created, "model": self._desk.name,
            "choices": [choice], "version": self._filed.engine.version.number, "stored": self._filed.stored,
        }

    def usage(self, written: int) -> dict[str, int]:
        """Token counts, ``written`` being the answer's. The prompt's include the mark that stands before every text."""
        read = len(self._filed.answer.prompt)
        counts = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if self._request.truncate_prompt_tokens is not None:
            counts["truncated_prompt_tokens"] = self._filed.answer.dropped
        return counts

    async def events(self, receive: Receive) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's objects, up to its end mark."""
        asked = self._request.stream_options or StreamOptions()
        extra: dict[str, Any] = {"usage": None} if asked.include_usage else {}
        async with aclosing(self.pieces(receive)) as pieces:
            async for piece in pieces:
                if piece.finish_reason is not None and (error := self.error()):
                    yield {"error": error_object(error)}
                    return
                if asked.continuous_usage_stats:
                    extra = {"usage": self.usage(piece.tokens)}
                if piece.text or piece.finish_reason is not None:
                    yield self.chunk(piece.text, piece.finish_reason) | extra
        if asked.include_usage:
            yield self.chunk("", None) | {"choices": [], "usage": self.usage(self._filed.answer.tokens)}


class _EventStream(Response):
    """Server-sent events, as OpenAI's clients read them."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply) -> None:
        super().__init__(headers=reply.headers | {"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def event(data: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        async with aclosing(self._reply.events(receive)) as events:
            async for value in events:
                await event(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        if self._reply.error() is None:
            await event("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive, act: Callable[[], None]) -> None:
    """Call ``act`` when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    act()
