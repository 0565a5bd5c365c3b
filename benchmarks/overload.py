"""Minutes at twice the load that the server sustains, and then its sudden end: what it refuses, what it needs, what it lost.

    python benchmarks/overload.py [--kind records text] [--minutes 10] [--seed 0]

First as many clients as keep it busy ask one after the other: that rate is what it sustains. Then requests come at random moments
(exponential pauses) at twice that rate whatever becomes of them, each third accepted answer gets feedback, and the server's memory
is looked at each second. At the end the server is killed with SIGKILL under full load and started again, and every answer and every
feedback that a client was told of must stand in the ledger. Records: the recipe credit-risk. Text: a small language model of the
recipe pycode, trained for a moment, 32 tokens an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
from predict import credit_risk, records
from raw_http import Line, request, run, serve
from side_by_side import heading

from treadle.core.project import load_project
from treadle.scaffold import RECIPES

CONNECTIONS = 256
WARM = 60
"""Seconds after which memory should have its size: by then every buffer and cache was used."""


def pycode(folder: Path) -> None:
    """The recipe's project, its model trained for a moment."""
    shutil.copytree(RECIPES / "pycode", folder)
    settings = ["--set", "train.budget=20 steps", "--set", "evaluate.gate={}"]
    subprocess.run([sys.executable, "-m", "treadle", "run", "-f", str(folder), *settings], check=True, stdout=sys.stderr)


def requests_of(kind: str, url: str) -> list[bytes]:
    if kind == "records":
        return [request("/v1/predict", {"inputs": record}) for record in records(url)[:100]]
    prompts = [f"def function_{place}(self, value_{place % 7}):" for place in range(100)]
    return [request("/v1/completions", {"model": "pycode", "prompt": prompt, "max_tokens": 32}) for prompt in prompts]


def id_of(kind: str, body: bytes) -> str:
    found = json.loads(body)
    return str(found["predictions"][0]["id"] if kind == "records" else found["id"])


class Load:
    """Open-loop clients of one server."""

    def __init__(self, kind: str, url: str, seed: int) -> None:
        self.kind, self.url, self.random = kind, url, random.Random(seed)
        self.requests = requests_of(kind, url)
        self.statuses: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.feedback: set[str] = set()
        self.seconds: list[float] = []
        self.over = False
        self._waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def sustained(self, clients: int, seconds: float) -> float:
        """Answers per second with so many clients that ask one after the other."""
        count, end = 0, time.perf_counter() + seconds

        async def client(place: int) -> None:
            nonlocal count
            line = await Line.open(self.url)
            while time.perf_counter() < end:
                status, body = await line.ask(self.requests[place % len(self.requests)])
                assert status == 200, body[:300]
                self.accepted.add(id_of(self.kind, body))
                count, place = count + 1, place + clients
            line.close()

        await asyncio.gather(*map(client, range(clients)))
        return count / seconds

    async def arrive(self, rate: float, seconds: float) -> None:
        """Requests at random moments, ``rate`` of them per second on average."""
        at = time.perf_counter()
        end = at + seconds
        while at < end and not self.over:
            at += self.random.expovariate(rate)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            if self._waiting.qsize() < CONNECTIONS:
                self._waiting.put_nowait((at, self.random.choice(self.requests)))
            else:
                self.statuses["no free connection"] += 1  # the clients' own limit: the server has not seen these
        self.over = True

    async def client(self) -> None:
        line = None  # until there is something to ask: one that says nothing is cut off
        while not (self.over and self._waiting.empty()):
            try:
                at, asked = await asyncio.wait_for(self._waiting.get(), 1)
            except TimeoutError:
                continue
            try:
                line = line or await Line.open(self.url)
                status, body = await line.ask(asked)
                self.statuses[str(status)] += 1
                if status == 200:
                    self.seconds.append(time.perf_counter() - at)
                    await self.accept(line, id_of(self.kind, body))
            except (ConnectionError, asyncio.IncompleteReadError):
                if self.over:
                    return
                self.statuses["connection lost"] += 1
                line = None
        if line is not None:
            line.close()

    async def accept(self, line: Line, id: str) -> None:
        self.accepted.add(id)
        if len(self.accepted) % 3:
            return
        status, _ = await line.ask(request("/v1/feedback", {"answer_id": id, "rating": self.random.choice(["up", "down"])}))
        self.statuses[f"feedback {status}"] += 1
        if status == 200:
            self.feedback.add(id)


async def measure(kind: str, server: psutil.Process, url: str, minutes: float, seed: int) -> tuple[Load, float, list[int]]:
    """Twice the sustained load for so long, and SIGKILL in the middle of it; the sustained rate, and memory (bytes) each second."""
    load, memory = Load(kind, url, seed), list[int]()
    await load.sustained(32, 3)
    rate = await load.sustained(32, 10)
    print(f"{kind}: sustains {rate:,.0f}/s; now {2 * rate:,.0f}/s for {minutes:g} min", file=sys.stderr)
    clients = [asyncio.create_task(load.client()) for _ in range(CONNECTIONS)]
    arrivals = asyncio.create_task(load.arrive(2 * rate, 60 * minutes + 5))
    start = time.perf_counter()
    while time.perf_counter() - start < 60 * minutes:
        memory.append(server.memory_info().rss)
        if len(memory) % 60 == 0:
            print(f"{kind}: {len(memory)} s, {memory[-1] / 1e6:,.0f} MB, {dict(load.statuses)}", file=sys.stderr)
        await asyncio.sleep(1)
    load.over = True  # what is under way is cut off in the middle
    server.send_signal(signal.SIGKILL)
    await asyncio.gather(arrivals, *clients)
    return load, rate, memory


def missing(folder: Path, table: str, column: str, wanted: set[str]) -> int:
    """How many of ``wanted`` the ledger does not have."""
    with closing(sqlite3.connect(load_project(folder).store / "ledger.db")) as ledger:
        return len(wanted - {row[0] for row in ledger.execute(f"select {column} from {table}")})


def report(kind: str, folder: Path, minutes: float, seed: int) -> None:
    {"records": credit_risk, "text": pycode}[kind](folder)
    process, url = serve(folder)
    load, rate, memory = run(measure(kind, psutil.Process(process.pid), url, minutes, seed))
    process.wait()
    again, _ = serve(folder)
    lost = missing(folder, "answers", "id", load.accepted), missing(folder, "feedback", "answer", load.feedback)
    again.terminate()
    again.wait()
    settled = memory[WARM:] or memory
    seconds = sorted(load.seconds)
    print(f"{kind}: sustained {rate:,.0f}/s, asked {2 * rate:,.0f}/s for {minutes:g} min: {dict(load.statuses)}")
    median, most = 1000 * statistics.median(seconds), 1000 * seconds[int(0.99 * len(seconds))]
    print(f"  accepted: median {median:,.0f} ms, 99% within {most:,.0f} ms")
    print(f"  memory after {WARM} s: {settled[0] / 1e6:,.0f} MB, {min(settled) / 1e6:,.0f} to {max(settled) / 1e6:,.0f}, "
          f"at the end {settled[-1] / settled[0] - 1:+.1%}")
    print(f"  after SIGKILL and a new start: of {len(load.accepted):,} accepted answers {lost[0]} are missing in the ledger, "
          f"of {len(load.feedback):,} feedback {lost[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=["records", "text"], default=["records", "text"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(heading(f"Twice the sustained load for {given.minutes:g} min.", {}))
    for kind in given.kind:
        with tempfile.TemporaryDirectory() as name:
            report(kind, Path(name) / kind, given.minutes, given.seed)


if __name__ == "__main__":
    main()
