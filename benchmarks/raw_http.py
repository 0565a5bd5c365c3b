"""A client that takes little of the machine that it shares with the server: one request after the other, made beforehand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

run = uvloop.run


def request(path: str, body: Any, key: str | None = None) -> bytes:
    """A POST of ``body`` as JSON, by the owner of ``key`` if there is one."""
    content = json.dumps(body).encode()
    said = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    said += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([f"POST {path} HTTP/1.1", *said, "\r\n"]).encode() + content


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Line:
        where = urlsplit(url)
        return cls(*await asyncio.open_connection(where.hostname, where.port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. Raises ``ConnectionError`` or ``IncompleteReadError`` where the server is gone."""
        if self._writer.is_closing():
            raise ConnectionError("the connection is closed")
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


def serve(folder: Path, start: Sequence[str] = ("-m", "treadle")) -> tuple[subprocess.Popen[str], str]:
    """``treadle serve`` of a project on a free port, and its URL; ``start``: how Python is told to start Treadle."""
    command = [sys.executable, *start, "serve", "-f", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " at http://" in line:
            return process, line.rpartition(" at ")[2].strip()
    sys.exit("".join(lines))
