"""Answers on their way to a client: OpenAI's response, at once or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio.to_thread
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from treadle.core.errors import RequestError
from treadle.model.sampling import Likely
from treadle.serve.answers import Finished, answer_row
from treadle.serve.asked import Written, asked
from treadle.serve.failures import error_object, failure
from treadle.serve.filing import Filer
from treadle.serve.forms import ReplyForm, Told
from treadle.serve.limits import charge
from treadle.serve.line import Late
from treadle.serve.monitor import Monitor
from treadle.serve.schema import Asking, StreamOptions
from treadle.serve.writer import Piece

_FAILED = ("error", "cancelled", "late", "refused")
_log = logging.getLogger("treadle.serve")


class Reply:
    """One or several answers to one request."""

    def __init__(
        self, name: str, filer: Filer, monitor: Monitor, answers: list[Finished], request: Asking, form: ReplyForm,
        pieces: asyncio.Queue[tuple[int, Piece]], ended: Callable[[Finished], None],
    ) -> None:
        """``ended`` hears of each answer that has ended."""
        self._name, self._filer, self._monitor, self._filed = name, filer, monitor, answers
        self._request, self._form, self._pieces, self._ended = request, form, pieces, ended
        self._created = int(time.time())
        self._told = [Told(one.engine.table) for one in answers]
        self.headers = {"x-treadle-version": str(answers[0].engine.version.number), "cache-control": "no-store"}

    async def response(self, receive: Receive) -> Response:
        """The response, whole or as a stream. A client that goes away frees its slots."""
        if self._request.stream:
            return _EventStream(self)
        texts, about = [""] * len(self._filed), [list[Likely]() for _ in self._filed]
        async with aclosing(self.pieces(receive)) as pieces:
            async for index, piece in pieces:
                texts[index] += piece.text
                about[index] += piece.likely
        if error := self.error():
            return failure(error)
        choices = [
            self._form.choice(index, text, self._reason(index), about[index], self._told[index]) | self._own(index)
            for index, text in enumerate(texts)
        ]
        written = [one.answer.tokens for one in self._filed]
        return JSONResponse(self._object(self._form.whole, choices) | {"usage": self.usage(written)}, headers=self.headers)

    async def pieces(self, receive: Receive) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all answers, each with its answer's place. The last one of an answer is given when it stands in the ledger,
        so that feedback finds it there."""
        watch = asyncio.create_task(_gone(receive, self._cancel))
        left = set(range(len(self._filed)))
        try:
            while left:
                index, piece = await self._pieces.get()
                if piece.finish_reason is not None:
                    left.discard(index)
                    if self._reason(index) in _FAILED:  # one answer is missing, so the others are in vain
                        self._cancel()
                    await asyncio.shield(asyncio.create_task(self._file(index)))
                yield index, piece
        finally:
            watch.cancel()
            if left:  # this task is being ended: the answers are filed all the same
                self._cancel()
                await asyncio.shield(asyncio.create_task(self._abandoned(left)))

    def _cancel(self) -> None:
        for one in self._filed:
            one.answer.cancel()

    async def _abandoned(self, left: set[int]) -> None:
        while left:
            index, piece = await self._pieces.get()
            if piece.finish_reason is not None:
                left.discard(index)
                await self._file(index)

    async def _file(self, index: int) -> None:
        """Count an answer and write it to the ledger, off the event loop. It is not withheld if that fails. One whose place in line
        another took is counted alone: it was refused, not answered."""
        one, at = self._filed[index], asked()
        answer = one.answer
        if answer.refused is not None:
            self._monitor.put_out(one.engine.version)
            return
        written = Written(
            one.id, one.engine.version, answer.prompt, answer.known, answer.tokens, self._reason(index), answer.started,
            answer.begun, answer.first, time.monotonic(),
        )
        self._monitor.wrote(written)
        charge(tokens=len(answer.prompt) + answer.tokens)
        self._ended(one)
        try:  # redaction reads the text
            row = await anyio.to_thread.run_sync(answer_row, one) if one.stored else answer_row(one)
            await self._filer.file([row])
        except Exception as error:
            self._monitor.not_recorded()
            _log.error("answer %s could not be written to the ledger: %s", self._filed[index].id, error)
        if at is not None:
            at.written.append(written)
            at.filed.append((written.ended, time.monotonic()))

    def _reason(self, index: int) -> str:
        return self._filed[index].answer.finish_reason or "cancelled"

    def error(self) -> RequestError | None:
        """Why there is no whole answer, if so."""
        reasons = [self._reason(index) for index in range(len(self._filed))]
        refused = next((one.answer.refused for one in self._filed if one.answer.refused), None)
        if refused is not None:
            return refused
        if "late" in reasons:
            return Late()
        if "error" in reasons:
            return RequestError("the model failed at this answer", status=500, cure="ask again; the server's log says why")
        if "cancelled" in reasons:
            return RequestError("the server is stopping", status=503, cure="ask again when it is back")
        return None

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """OpenAI's object, with ``version`` and ``stored`` beside its fields."""
        first = self._filed[0]
        return {
            "id": first.id, "object": kind, "created": self._created, "model": self._name, "choices": choices,
            "version": first.engine.version.number, "stored": first.stored,
        }

    def _own(self, index: int) -> dict[str, str]:
        """Where there are several answers, each one's own id, by which feedback finds it."""
        return {"id": self._filed[index].id} if len(self._filed) > 1 else {}

    def usage(self, written: list[int]) -> dict[str, Any]:
        """Token counts, ``written`` being the answers'. The prompts' include the mark that stands before every text."""
        answers = [one.answer for one in self._filed]
        read, new = sum(len(answer.prompt) for answer in answers), sum(written)
        counts: dict[str, Any] = {
            "prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new,
            "prompt_tokens_details": {"cached_tokens": sum(answer.known for answer in answers)},
        }
        if getattr(self._request, "truncate_prompt_tokens", None) is not None:
            counts["truncated_prompt_tokens"] = sum(answer.dropped for answer in answers)
        return counts

    async def events(self, receive: Receive) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's objects, up to its end mark."""
        asked, written = self._request.stream_options or StreamOptions(), [0] * len(self._filed)
        extra: dict[str, Any] = {"usage": None} if asked.include_usage else {}
        held = [("", list[Likely]()) for _ in self._filed]
        opened = False
        async with aclosing(self.pieces(receive)) as pieces:
            async for index, piece in pieces:
                if piece.finish_reason is not None and (error := self._failed(index)):
                    yield {"error": error_object(error)}
                    return
                for place in range(len(self._filed)) if not opened else ():
                    if opening := self._form.begin(place):
                        yield self._object(self._form.streamed, [opening | self._own(place)]) | extra
                opened = True
                written[index] = piece.tokens
                if asked.continuous_usage_stats:
                    extra = {"usage": self.usage(written)}
                text, about = held[index][0] + piece.text, [*held[index][1], *piece.likely]
                waits = piece.finish_reason is None and (self._form.at_once or not (text or about))
                held[index] = (text, about) if waits else ("", [])
                if not waits:
                    part = self._form.part(index, text, piece.finish_reason, about, self._told[index])
                    yield self._object(self._form.streamed, [part | self._own(index)]) | extra
        if asked.include_usage:
            yield self._object(self._form.streamed, []) | {"usage": self.usage(written)}

    def _failed(self, index: int) -> RequestError | None:
        return self.error() if self._reason(index) in _FAILED else None


class _EventStream(Response):
    """Server-sent events, as OpenAI's clients read them."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply) -> None:
        super().__init__(headers=reply.headers | {"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The status is sent with the first piece: what fails before is an error like any other."""
        begun = False

        async def event(data: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        async with aclosing(self._reply.events(receive)) as events:
            async for value in events:
                if not begun and "error" in value:
                    error = self._reply.error()
                    assert error is not None
                    await failure(error)(scope, receive, send)
                    return
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    begun = True
                await event(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        if self._reply.error() is None:
            await event("[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive, act: Callable[[], None]) -> None:
    """Call ``act`` when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    act()
