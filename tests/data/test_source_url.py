"""Files from a server on loopback: kept, resumed, and refused where they are not what was promised."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import ValidationError
from rows_world import gather, place, source

from treadle.core.errors import SourceError

CONTENT = b"a,y\n" + b"".join(b"%d,%s\n" % (n, b"pq"[n % 2 : n % 2 + 1]) for n in range(3_000))
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``stop_after`` bytes of an answer it hangs up; ``ranges`` says whether it can go on in the middle."""

    asked: list[str | None]
    stop_after: int | None = None
    ranges = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        self.server.asked.append(given)
        start = int(re.findall(r"\d+", given)[0]) if given and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = self.server.stop_after
        self.wfile.write(CONTENT[start : start + end if end else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def spec(server: Server, sha256: str = HASH, **then: object):  # type: ignore[no-untyped-def]
    return source(url=f"http://127.0.0.1:{server.server_port}/some/t.csv?x=1", sha256=sha256, then={"table": "{file}", **then})


def read(server: Server, folder: Path, sha256: str = HASH):  # type: ignore[no-untyped-def]
    return gather(spec(server, sha256), place(folder, {"a": "number"}))


def test_a_file_is_downloaded_once_and_read_as_then_says(server: Server, tmp_path: Path) -> None:
    kept, aside = read(server, tmp_path)
    assert (len(kept), aside) == (3_000, [])
    url = spec(server).url
    assert (kept[0].source, kept[0].meta["pattern"], kept[0].licence) == (f"{url}:2", url, "MIT")
    assert read(server, tmp_path)[0] == kept
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.stop_after, server.ranges = 10_000, ranges
    with pytest.raises(SourceError, match=r"cannot download .* 10000 of") as caught:
        read(server, tmp_path)
    assert "10000 bytes are kept" in caught.value.cure
    server.stop_after = None
    assert len(read(server, tmp_path)[0]) == 3_000
    assert server.asked == [None, "bytes=10000-"]


def test_another_file_is_refused_with_both_hashes(server: Server, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(SourceError, match=rf"expected {wrong}, found {HASH}"):
        read(server, tmp_path, wrong)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_was_changed_on_disk_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    read(server, tmp_path)
    file = next(tmp_path.rglob("t.csv"))
    file.write_text("a,y\n1,p\n")
    file.with_name("t.csv.part").write_bytes(b"z" * (len(CONTENT) + 1))  # longer than the file: the server refuses to go on
    assert len(read(server, tmp_path)[0]) == 3_000
    assert server.asked == [None, f"bytes={len(CONTENT) + 1}-", None]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    given = source(url="http://127.0.0.1:1/t.csv", sha256=HASH, then={"table": "{file}"})
    with pytest.raises(SourceError, match="cannot download"):
        gather(given, place(tmp_path, {"a": "number"}))


@pytest.mark.parametrize(("then", "said"), [
    ({"table": "t.csv"}, "stands for the file's path"), ({"url": "{file}", "sha256": HASH, "then": {}}, "of another kind"),
    ({"table": "{file}", "delimeter": ";"}, "then.delimeter: Extra inputs"),
    ({"table": "{file}", "encoding": "utf8k"}, "no such text"),
])
def test_then_is_checked_before_anything_is_downloaded(then: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        source(url="http://h/t.csv", sha256=HASH, then=then)
