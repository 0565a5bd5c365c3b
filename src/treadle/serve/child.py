"""vLLM as a process of its own: started, asked over a socket in a folder that is this user's alone, and ended with its owner."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from treadle.core.errors import UserError
from treadle.serve import leash

PROGRAM = "TREADLE_VLLM"
"""The environment variable that names the program."""
_CONNECT = 10.0  # seconds; what comes after is awaited for as long as the answer may take
_LOOK = 5.0  # seconds that it is given to say that it is well
_LINES = 12  # last lines of what it wrote that an error shows
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""No telemetry and no downloads."""


def find_program() -> str:
    """The path of ``vllm``. Raises ``UserError`` where there is none."""
    given = os.environ.get(PROGRAM)
    found = shutil.which(given or "vllm")
    if found is None:
        message = f"{PROGRAM} names {given}, no program" if given else "there is no program vllm, which 'serve.engine' names"
        way = f"install vLLM, best into an environment of its own, and name its program, as in {PROGRAM}=/opt/vllm/bin/vllm"
        cure = f"{way}; or set 'serve.engine: treadle'"
        raise UserError(message, cure=cure)
    return found


class Child:
    """``vllm serve FOLDER OPTIONS``, whose model is called ``NAME``. It listens on a Unix socket that no other user can reach: a
    port of loopback would be open to them, since vLLM demands its key for some of its routes alone. The key goes through the
    environment, where no list of processes shows it."""

    NAME = "model"

    def __init__(self, program: str, folder: Path, options: Sequence[str]) -> None:
        self._key = secrets.token_urlsafe(32)
        self._room = Path(tempfile.mkdtemp(prefix="treadle-"))  # with mode 0700
        self._socket = self._room / "vllm"
        own = ["--uds", str(self._socket), "--served-model-name", self.NAME]
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(leash.__file__)), program, "serve", str(folder), *own, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | _QUIET | {"VLLM_API_KEY": self._key},
        )
        self._ready = False
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._reader = threading.Thread(target=self._read, name="vllm-output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """What it writes is kept until it is ready. What it writes later may tell of requests, and is let go."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not self._ready:
                    self._lines.append(line.decode("utf-8", "replace").rstrip()[:300])

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """One to it, not opened yet."""
        return _Connection(self._socket, timeout)

    @property
    def access(self) -> dict[str, str]:
        """The header that opens it."""
        return {"Authorization": f"Bearer {self._key}"}

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def last_lines(self) -> str:
        """The end of what it wrote while it started."""
        if self.code is not None:
            self._reader.join(1)
        return "\n".join(f"  | {line}" for line in tuple(self._lines) if line).replace(self._key, "...")

    def well(self) -> bool:
        """Whether it runs and takes requests."""
        if self.code is not None:
            return False
        connection = self.connection(_LOOK)
        try:
            connection.request("GET", "/health")
            well = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        self._ready = self._ready or well
        return well

    def let_go(self) -> None:
        """Have it end, with all that it started, within ``leash.GRACE`` seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End it; return when it and all that it started are gone."""
        self.let_go()
        try:
            self._process.wait(leash.GRACE + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._room, ignore_errors=True)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class NotReached(ConnectionError):
    """Nothing listens: nothing was asked yet."""


class Call:
    """One request for text under way; ``close`` from any thread ends it, and vLLM gives it up."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._connection = child.connection(_CONNECT)
        self._socket: socket.socket | None = None
        self._closed = False

    def events(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """What is streamed back for ``body``, object by object up to the end mark. Raises ``OSError``, ``HTTPException`` or
        ``ValueError`` where that breaks off, is refused, or is not what it should be."""
        try:
            try:
                self._connection.connect()
            except OSError as error:
                raise NotReached("vLLM is not there") from error
            self._socket = self._connection.sock
            self._socket.settimeout(None)
            if self._closed:
                raise ConnectionError("given up before it began")
            headers = {"Content-Type": "application/json", **self.child.access}
            self._connection.request("POST", "/v1/completions", json.dumps(body | {"model": Child.NAME, "stream": True}), headers)
            response = self._connection.getresponse()
            if response.status != 200:
                raise ValueError(f"vLLM answered {response.status}")
            while True:
                line = response.readline()
                if not line or self._closed:
                    raise ConnectionError("vLLM broke an answer off")
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _checked(json.loads(data))
        finally:
            self._connection.close()

    def close(self) -> None:
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _checked(event: Any) -> dict[str, Any]:
    if not isinstance(event, dict) or "error" in event:
        raise ValueError("vLLM could not go on with an answer")
    return event
