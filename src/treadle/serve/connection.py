"""One connection of a client: who is slow to ask, or takes nothing of the answer, is cut off and holds no place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from treadle.core.errors import RequestError
from treadle.serve.failures import failure
from treadle.serve.headers import PLAIN
from treadle.spec.access import Timeouts

_GRACE = 5.0  # seconds after which a body is cut off that no one reads, where no route has answered 408


class Connection(H11Protocol):
    """uvicorn's connection, with an end to its patience.

    uvicorn waits without end for the rest of a request: a client that sends a byte now and then holds a connection as long as it
    likes. Here the time runs from what began the wait, however much trickles in meanwhile.
    """

    timeouts = Timeouts()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._owed: tuple[object, object] | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def eof_received(self) -> None:
        """The client says that it sends nothing more. It is taken as gone, lest a half-closed connection hold a slot."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._reading = self._restart(self._reading, self.timeouts.reading, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self._restart(self._reading, self.timeouts.reading, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading = self._restart(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._asking, self._reading = self._restart(self._asking), self._restart(self._reading)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(msg, cure="send HTTP/1.1"))

    def _watch(self) -> None:
        """Give the client time for what it owes now, unless it has owed that for a while."""
        owed = (self.conn.their_state, self.cycle)
        if owed == self._owed:
            return
        self._owed, self._asking = owed, self._restart(self._asking)
        if owed[0] is h11.IDLE:
            self._asking = self._restart(None, self.timeouts.headers, self._no_headers)
        elif owed[0] is h11.SEND_BODY:
            self._asking = self._restart(None, self.timeouts.body + _GRACE, self.transport.abort)

    def _no_headers(self) -> None:
        begun, _ = self.conn.trailing_data
        if self.transport.is_closing():
            return
        if begun:
            message = f"the request's headers did not come within {self.timeouts.headers:g} s"
            self._refuse(RequestError(message, status=408, cure="send them at once; 'serve.timeouts' is the limit"))
        else:
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Answer what is no request, or not yet one, and close."""
        response = failure(error)
        response.headers["connection"] = "close"
        head = h11.Response(status_code=error.status, headers=[*response.raw_headers, *PLAIN])
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _restart(
        self, timer: asyncio.TimerHandle | None, seconds: float = 0, act: Callable[[], None] | None = None
    ) -> asyncio.TimerHandle | None:
        """Stop ``timer``; begin another where there is something to do after so many ``seconds``."""
        if timer is not None:
            timer.cancel()
        return self.loop.call_later(seconds, act) if act else None
