"""One connection of a client: who is slow to ask, or takes nothing of the answer, is cut off and holds no place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from treadle.core.errors import RequestError
from treadle.serve.asked import HEADER, new_id
from treadle.serve.failures import failure
from treadle.serve.headers import PLAIN
from treadle.spec.access import Timeouts

HEAD = 65_536
"""Most bytes from a request's first to the end of its headers."""
_JOINED = 65_536  # bytes that are written at once in any case


class Deadline:
    """A moment at which something is done unless it is moved before. Moving it is cheap, as a connection does it with every
    request: the timer behind it stays, and when it rings it looks whether the moment has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._act: Callable[[], None] | None = None
        self._at = 0.0

    def set(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` in so many seconds, and not what was to be called before."""
        self._at, self._act = self._loop.time() + seconds, act
        if self._timer is not None and self._timer.when() > self._at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._at, self._ring)

    def clear(self) -> None:
        """Call nothing."""
        self._act = None

    def close(self) -> None:
        """Call nothing, ever."""
        self._act = None
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        act = self._act
        if act is None:
            return
        if self._loop.time() < self._at:
            self._timer = self._loop.call_at(self._at, self._ring)
            return
        self._act = None
        act()


class Joined:
    """A transport that joins what is written in one turn of the event loop: a response's head and body go out together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop, self._transport = loop, transport
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _JOINED:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with an end to its patience and to the length of what it listens to.

    uvicorn waits without end for the rest of a request: a client that sends a byte now and then holds a connection as long as it
    likes. Here the time runs from what began the wait, however much trickles in meanwhile.
    """

    timeouts = Timeouts()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, Joined(self.loop, transport))
        self._asking, self._reading = Deadline(self.loop), Deadline(self.loop)
        self._head = 0  # bytes of the request whose headers are not complete
        self._whole = True  # nothing of a request's body is owed
        self._idle = False  # a request was answered, and of the next there is nothing yet
        self._answered: RequestResponseCycle | None = None  # the request at hand; ``cycle`` is the newest, which may wait behind it
        self._asking.set(self.timeouts.headers, self._no_headers)

    def data_received(self, data: bytes) -> None:
        """Beyond uvicorn's: no more than ``HEAD`` bytes without the end of the headers."""
        if self._idle:
            self._idle = False
            self._asking.set(self.timeouts.headers, self._no_headers)
        self._head += len(data)
        super().data_received(data)
        if self._head > HEAD and not self.transport.is_closing():
            self.send_400_response(f"the request's head is over {HEAD} bytes")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head, self._whole = 0, False
        self._asking.set(self.timeouts.body, self._no_body)

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head, self._whole = 0, True
        self._asking.clear()
        if self.cycle.response_complete:
            self._wait()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._whole and self.cycle.response_complete:
            self._wait()

    def eof_received(self) -> None:
        """The client says that it sends nothing more. It is taken as gone, lest a half-closed connection hold a slot."""
        self._leave()
        self._reading.set(self.timeouts.reading, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.set(self.timeouts.reading, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._asking.close()
        self._reading.close()
        self._leave()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(msg, cure="send HTTP/1.1"))

    def _wait(self) -> None:
        """For the next request, of which something may be there already."""
        self._idle = not self._head
        if self._idle:
            self._asking.set(self.timeouts.idle, self.transport.close)
        else:
            self._asking.set(self.timeouts.headers, self._no_headers)

    def _no_headers(self) -> None:
        if self.transport.is_closing():
            return
        if self._head:
            message = f"the request's headers did not come within {self.timeouts.headers:g} s"
            self._refuse(RequestError(message, status=408, cure="send them at once; 'serve.timeouts' is the limit"))
        else:
            self.transport.close()

    def _no_body(self) -> None:
        message = f"the body did not come within {self.timeouts.body:g} s"
        self._refuse(RequestError(message, status=408, cure="send it faster, or less; 'serve.timeouts.body' is the limit"))

    def _leave(self) -> None:
        """Tell the request at hand, and one behind it, that no one waits for their answers."""
        for cycle in filter(None, (self._answered, self.cycle)):
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _refuse(self, error: RequestError) -> None:
        """Answer what is no request, or not a whole one, and close. Where that would stand in another answer, or behind its own,
        close without a word."""
        at_hand = self._answered is not None and not self._answered.response_complete
        alone = at_hand and self._answered is self.cycle and not self.cycle.response_started
        if (at_hand if self._whole else not alone):
            self.transport.abort()
            return
        self._leave()
        response = failure(error)
        response.headers["connection"], response.headers[HEADER] = "close", new_id()
        headers = b"".join(b"%b: %b\r\n" % pair for pair in (*response.raw_headers, *PLAIN))
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(response.body))
        self.transport.close()
