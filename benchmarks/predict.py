"""Single predictions per second through HTTP, and how long each takes, of a model of a table behind ``treadle serve``.

    python benchmarks/predict.py [--clients 32] [--seconds 10] [--rounds 3]

The model is that of the recipe credit-risk with the network of the whole recipe, trained for a moment on its sample. Each client
keeps one connection, sends a record, reads the answer, and sends the next; every answer stands in the ledger before it is given,
which is counted at the end. Clients run in a process of their own on the same machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from side_by_side import heading

from treadle.core.project import load_project
from treadle.scaffold import RECIPES
from treadle.store.ledger import Ledger

COLUMNS = (
    "age", "workclass", "weight", "education", "years", "marital", "occupation", "relationship", "race", "sex", "gain", "loss",
    "hours", "country",
)


def records(url: str) -> list[dict[str, str]]:
    """Those of the sample's test part, with the columns that the server wants."""
    with urllib.request.urlopen(f"{url}/page/config.json") as answer:
        wanted = {given["column"] for given in json.load(answer)["inputs"]}
    with (RECIPES / "credit-risk" / "sample" / "test.csv").open(encoding="utf-8") as file:
        rows = [dict(zip(COLUMNS, row, strict=False)) for row in csv.reader(file, skipinitialspace=True) if len(row) > len(COLUMNS)]
    return [{column: row[column] for column in wanted} for row in rows]


def client(address: tuple[str, int], bodies: list[bytes], until: float, seconds: list[float]) -> None:
    """Ask one record after the other; adds how long each took."""
    with socket.create_connection(address) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        place = 0
        while time.perf_counter() < until:
            start = time.perf_counter()
            line.sendall(bodies[place % len(bodies)])
            found = line.recv(65536)
            while b"\r\n\r\n" not in found:
                found += line.recv(65536)
            head, _, body = found.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += line.recv(65536)
            assert head.startswith(b"HTTP/1.1 200"), found[:500]
            seconds.append(time.perf_counter() - start)
            place += 1


def load(url: str, clients: int, length: float) -> None:
    """One measurement, printed as JSON."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    bodies = []
    for record in records(url)[:100]:
        body = json.dumps({"inputs": record}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        bodies.append(f"{head}\r\n\r\n".encode() + body)
    seconds: list[list[float]] = [[] for _ in range(clients)]
    until = time.perf_counter() + length
    threads = [
        threading.Thread(target=client, args=((where.hostname, where.port), bodies[n:] + bodies[:n], until, seconds[n]))
        for n in range(clients)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(second for one in seconds for second in one)
    spent = time.perf_counter() - start
    found = {"rate": len(every) / spent, "p50": every[len(every) // 2], "p99": every[int(0.99 * len(every))], "count": len(every)}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        load(given.load, given.clients, given.seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "credit-risk"
        treadle = [sys.executable, "-m", "treadle"]
        shutil.copytree(RECIPES / "credit-risk", folder)
        shutil.copy(folder / "sample.yaml", folder / "treadle.yaml")
        settings = ["--set", "model.trunk.mlp.width=256", "--set", "train.budget=1 epochs", "--set", "evaluate.gate={}"]
        subprocess.run([*treadle, "run", "-f", str(folder), *settings], check=True, stdout=sys.stderr)
        command = [*treadle, "serve", "-f", str(folder), "--port", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert server.stderr is not None
        url = next(line for line in server.stderr if " at http://" in line).rpartition(" at ")[2].strip()
        words = [sys.executable, __file__, "--clients", str(given.clients), "--load", url, "--seconds"]
        subprocess.run([*words, "1"], check=True, stdout=subprocess.DEVNULL)
        ledger = Ledger(load_project(folder).store)
        before, rounds = ledger.totals()["answers"], []
        for _ in range(given.rounds):
            done = subprocess.run([*words, str(given.seconds)], check=True, stdout=subprocess.PIPE, text=True)
            rounds.append(json.loads(done.stdout))
            print(rounds[-1], file=sys.stderr)
        filed = ledger.totals()["answers"] - before
        server.terminate()
        server.wait()
    assert filed == sum(one["count"] for one in rounds), "an answer is missing in the ledger"
    print(heading(f"Predictions one by one, {given.clients} clients, {given.seconds:g} s, {given.rounds} rounds.", {}))
    for what, unit, factor in (("rate", "predictions/s", 1), ("p50", "ms", 1000), ("p99", "ms", 1000)):
        values = [factor * one[what] for one in rounds]
        print(f"{what}: {statistics.median(values):,.1f} {unit} ({min(values):,.1f} to {max(values):,.1f})")
    print(f"{filed:,} answers, all of them in the ledger")


if __name__ == "__main__":
    main()
