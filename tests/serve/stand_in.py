"""A stand-in for vLLM, on the standard library alone: a real process that serves its protocol over real sockets, and does what
files in the folder ``STAND_IN`` say. It is started as vLLM is, by the script that ``install`` writes.

It goes on from the last token of the prompt: after token t comes t + 1, at the vocabulary's end 1. Its files, all of them optional:

    hold          while it is there, no answer gets a token
    group         tokens in each event (1)
    ends_at       a token that it takes as the end of every text
    refuse        every request is answered with this status
    break_after   it closes the connection of each answer after so many tokens
    die_after     it ends, with exit code 9, after so many tokens of an answer, and takes this file along
    sick          /health is answered 500
    no_start      it says so, and ends before it listens
    slow_start    seconds before it listens

It writes: ``starts/N.json`` (arguments and environment of each start), ``asked/N.json`` (each request, in order), ``dropped/N``
(whose client went away before the end), ``done/N``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

VOCABULARY = 320


def install(folder: Path) -> Path:
    """Write a program into ``folder`` that runs the stand-in by its files there; gives its path."""
    for name in ("starts", "asked", "dropped", "done"):
        (folder / name).mkdir(parents=True)
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nSTAND_IN="{folder}" exec "{sys.executable}" "{Path(__file__)}" "$@"\n')
    program.chmod(0o755)
    return program


def after(token: int, count: int) -> list[int]:
    """What follows ``token``."""
    found = []
    for _ in range(count):
        token = token % (VOCABULARY - 1) + 1
        found.append(token)
    return found


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder, self._lock, self._asked = folder, threading.Lock(), len(list((folder / "asked").iterdir()))

    def number(self, name: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / name).read_text() or 0)
        return None

    def there(self, name: str) -> bool:
        return (self.folder / name).exists()

    def ask(self, body: Any) -> int:
        with self._lock:
            self._asked += 1
            write(self.folder / "asked" / f"{self._asked}.json", json.dumps(body))
            return self._asked


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name("." + path.name)
    draft.write_text(text)
    draft.rename(path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files
    key: str

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._tell(500 if self.files.there("sick") else 200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = self.files.ask(body)
        print("asked for", body, flush=True)  # what a real one might, and no log of the server may have
        if self.headers["authorization"] != f"Bearer {self.key}":
            self._tell(401, {"error": "Unauthorized"})
        elif (status := self.files.number("refuse")) is not None:
            self._tell(status, {"error": {"message": f"no: {body['prompt']}"}})
        else:
            self._stream(body, number)

    def _tell(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Any, number: int) -> None:
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self._write_answer(body)
            (self.files.folder / "done" / str(number)).touch()
        except (BrokenPipeError, ConnectionResetError):
            (self.files.folder / "dropped" / str(number)).touch()
        self.close_connection = True

    def _write_answer(self, body: Any) -> None:
        tokens, group = after(body["prompt"][-1], body["max_tokens"]), self.files.number("group") or 1
        end = self.files.number("ends_at")
        reason = "length"
        if end in tokens:
            tokens, reason = [*tokens[: tokens.index(end)], body["stop_token_ids"][0]], "stop"
        for at in range(0, len(tokens), group):
            self._wait_for_leave()
            part = tokens[at : at + group]
            choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None, "finish_reason": None, "token_ids": part}
            if "logprobs" in body:
                choice["logprobs"] = told(part, body["logprobs"])
            if at + group >= len(tokens):
                choice["finish_reason"] = reason
            self._event({"choices": [choice]})
            self._perhaps_break(at + group)
        usage = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": len(body["prompt"]) - 1}}
        self._event({"choices": [], "usage": usage})
        end = b"data: [DONE]\n\n"
        self.wfile.write(f"{len(end):x}\r\n".encode() + end + b"\r\n0\r\n\r\n")  # at once: the client takes this as the end

    def _wait_for_leave(self) -> None:
        """Until nothing holds it; whoever goes away meanwhile is noticed."""
        while True:
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                raise BrokenPipeError
            if not self.files.there("hold"):
                return
            time.sleep(0.005)

    def _perhaps_break(self, written: int) -> None:
        if written == self.files.number("die_after"):
            (self.files.folder / "die_after").unlink()
            os._exit(9)
        if written == self.files.number("break_after"):
            self.connection.shutdown(socket.SHUT_RDWR)
            raise BrokenPipeError

    def _event(self, value: Any) -> None:
        self._chunk(f"data: {json.dumps(value)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def told(tokens: list[int], count: int) -> dict[str, Any]:
    """Each token has -0.5, the ones after it -1.5, -2.5, ...; as vLLM does, the token itself stands among the likeliest as well,
    here at their end."""
    names = [f"token_id:{token}" for token in tokens]
    others = [{f"token_id:{other}": -1.5 - place for place, other in enumerate(after(token, count))} for token in tokens]
    top = [those | {name: -0.5} for those, name in zip(others, names, strict=True)]
    return {"tokens": names, "token_logprobs": [-0.5] * len(tokens), "top_logprobs": top, "text_offset": []}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    files = Files(Path(os.environ["STAND_IN"]))
    starts = files.folder / "starts"
    given = {"arguments": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid()}
    write(starts / f"{len(list(starts.glob('*.json'))) + 1}.json", json.dumps(given))
    if files.there("no_start"):
        print(f"cannot open the model; the key is {os.environ['VLLM_API_KEY']}", flush=True)
        sys.exit(3)
    time.sleep(files.number("slow_start") or 0)
    handler = type("Bound", (Handler,), {"files": files, "key": os.environ["VLLM_API_KEY"]})
    Server(sys.argv[sys.argv.index("--uds") + 1], handler).serve_forever()


if __name__ == "__main__":
    main()
