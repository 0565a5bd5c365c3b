"""Single predictions per second through HTTP, and how long each takes, of a model of a table behind ``treadle serve``.

    python benchmarks/predict.py [--clients 32] [--seconds 10] [--rounds 3]

The model is that of the recipe credit-risk with the network of the whole recipe, trained for a moment on its sample. Each client
keeps one connection, sends a record, reads the answer, and sends the next; every answer stands in the ledger before it is given,
which is counted at the end. Clients run in a process of their own on the same machine; in each round they ask without a key, and
then all of them with the same key, whose use is counted too.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import date
from pathlib import Path

from raw_http import Line, request, run, serve
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
    return [{column: None if row[column] == "?" else row[column] for column in wanted} for row in rows]


async def client(url: str, requests: list[bytes], until: float, seconds: list[float]) -> None:
    """Ask one record after the other; adds how long each took."""
    line, place = await Line.open(url), 0
    while time.perf_counter() < until:
        start = time.perf_counter()
        status, body = await line.ask(requests[place % len(requests)])
        assert status == 200, body[:500]
        seconds.append(time.perf_counter() - start)
        place += 1
    line.close()


async def load(url: str, clients: int, length: float, key: str | None) -> None:
    """One measurement, printed as JSON."""
    requests = [request("/v1/predict", {"inputs": record}, key) for record in records(url)[:100]]
    seconds: list[list[float]] = [[] for _ in range(clients)]
    start = time.perf_counter()
    await asyncio.gather(*(client(url, requests[n:] + requests[:n], start + length, seconds[n]) for n in range(clients)))
    spent = time.perf_counter() - start
    every = sorted(second for one in seconds for second in one)
    found = {"rate": len(every) / spent, "p50": every[len(every) // 2], "p99": every[int(0.99 * len(every))], "count": len(every)}
    print(json.dumps(found))


def credit_risk(folder: Path) -> None:
    """The recipe's project with the network of the whole recipe, trained for a moment on its sample."""
    shutil.copytree(RECIPES / "credit-risk", folder)
    shutil.copy(folder / "sample.yaml", folder / "treadle.yaml")
    settings = ["--set", "model.trunk.mlp.width=256", "--set", "train.budget=1 epochs", "--set", "evaluate.gate={}"]
    subprocess.run([sys.executable, "-m", "treadle", "run", "-f", str(folder), *settings], check=True, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        run(load(given.load, given.clients, given.seconds, given.key))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "credit-risk"
        credit_risk(folder)
        server, url = serve(folder)
        words = [sys.executable, __file__, "--clients", str(given.clients), "--load", url, "--seconds"]
        subprocess.run([*words, "1"], check=True, stdout=subprocess.DEVNULL)
        ledger = Ledger(load_project(folder).store)
        before, key = ledger.totals()["answers"], ledger.add_key("clients")
        rounds: dict[str, list[dict[str, float]]] = {"without a key": [], "with a key": []}
        for _ in range(given.rounds):
            for name, more in zip(rounds, ([], ["--key", key]), strict=True):
                done = subprocess.run([*words, str(given.seconds), *more], check=True, stdout=subprocess.PIPE, text=True)
                rounds[name].append(json.loads(done.stdout))
                print(name, rounds[name][-1], file=sys.stderr)
        filed = ledger.totals()["answers"] - before
        server.terminate()
        server.wait()
        used = sum(row["predictions"] for row in ledger.use_since(date.min))
    assert filed == sum(one["count"] for name in rounds for one in rounds[name]), "an answer is missing in the ledger"
    assert used == sum(one["count"] for one in rounds["with a key"]), "the key's use is not what it asked"
    print(heading(f"Predictions one by one, {given.clients} clients, {given.seconds:g} s, {given.rounds} rounds.", {}))
    for name, found in rounds.items():
        print(f"\n{name}")
        for what, unit, factor in (("rate", "predictions/s", 1), ("p50", "ms", 1000), ("p99", "ms", 1000)):
            values = [factor * one[what] for one in found]
            print(f"  {what}: {statistics.median(values):,.1f} {unit} ({min(values):,.1f} to {max(values):,.1f})")
    print(f"\n{filed:,} answers, all of them in the ledger, and {used:,} counted for the key")


if __name__ == "__main__":
    main()
