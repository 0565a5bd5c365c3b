"""Servers with a console, over a store in which every page finds something to show, some of it hostile."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from sites import Running, Site, running

from treadle.console.app import add_console
from treadle.data.account import Account
from treadle.data.record import MEDIA, Record, SetAside, content_id, write_records, write_set_aside
from treadle.store.artifacts import MANIFEST
from treadle.store.notes import write_note

HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>\"'></textarea><b onclick=alert(1)>"
PAGES = ("", "/playground", "/feedback", "/runs", "/scorecards", "/data", "/lineage", "/keys", "/cost", "/projects")
STATUS: dict[str, Any] = {
    "at": "2026-11-29T00:00:00Z", "uptime": 5400.0, "model": "tiny", "version": 2, "draining": False,
    "load": {"active": 2, "waiting": 1, "slots": 4, "queue": 64, "requests_per_minute": 31.5, "tokens_per_minute": 4012.0},
    "latency": {
        "first_token": {"p50": 0.034, "p90": 0.12, "p99": 0.31, "count": 812}, "per_token": None,
        "total": {"p50": 0.84, "p90": 1.9, "p99": 4.25, "count": 812}, "queue": {"p50": 0.0, "p90": 0.01, "p99": 0.2, "count": 812},
    },
    "requests": {"ok": 1812, "client_errors": 12, "server_errors": 1, "refused": 3},
    "versions": [
        {"version": 1, "package": "package-aa", "role": "live", "share": 0.9, "requests": 1600, "tokens": 90_123,
         "total": {"p50": 0.8, "p90": 1.8, "p99": 4.0, "count": 1600}, "feedback": {"up": 12, "down": 3, "edited": 2}},
        {"version": 2, "package": "package-bb", "role": "canary", "share": 0.1, "requests": 212, "tokens": 9_001, "total": None,
         "feedback": {"up": 1, "down": 0, "edited": 0}},
    ],
    "keys": [{"key": "shop", "requests": 1700, "tokens": 88_000, "predictions": 0, "money": 1.76}],
    "cost": {"currency": "EUR", "per_1000_requests": 1.04, "how": "from serve.price"},
    "feedback": {"answers": 1812, "feedback": 18, "rate": 0.0099}, "cache": {"hits": 400, "asked": 1000},
    "drift": [{"what": "input", "name": HOSTILE, "statistic": "psi", "value": 0.31, "count": 900, "level": "alert"}],
    "alerts": [{"at": "2026-11-29T00:00:00Z", "name": "slow", "message": HOSTILE, "over": False}],
}
"""What ``GET /v1/status`` gives, as it was recorded, with hostile names put in."""


@contextlib.contextmanager
def console(site: Site, *overrides: str, host: str = "127.0.0.1") -> Iterator[Running]:
    """A server of ``site`` with its console."""
    with running(site, overrides, host, add_console) as server:
        yield server


def furnish(site: Site) -> dict[str, str]:
    """Put a corpus, a dataset, two models with scorecards, answers and runs into ``site``; gives ids by short names."""
    ids: dict[str, str] = {}
    draw = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(draw, "PNG")
    texts = [HOSTILE, *(f"def f{n}(x):\n    return x + {n}\n" for n in range(1, 45))]
    rows = [{"text": text, "photo": {"bytes": draw.getvalue(), "path": f"{n}.png"}} for n, text in enumerate(texts)]
    records = [Record(content_id(row), row, f"files/{n}.py" if n else HOSTILE, "PSF-2.0", str(n)) for n, row in enumerate(rows)]
    aside = [SetAside(HOSTILE, "secret", HOSTILE), *(SetAside(f"b{n}.py", "empty") for n in range(30))]
    account = Account(76, 45)
    account.set_aside.update({"secret": 1, "empty": 30})
    source = {"pattern": "*.py", "licence": "PSF-2.0", "files": 45, "bytes": 4000}
    counts = {"account": account.as_dict(), "bytes": 4000, "redacted": {}, "sources": [source]}

    def corpus(folder: Path) -> None:
        write_records(folder / "records.parquet", records, {"text": pa.string(), "photo": MEDIA})
        write_set_aside(folder / "quarantine.parquet", aside)

    ids["corpus"] = _make(site, "corpus", [], {"name": "corpus"}, counts, corpus)
    parts = {part: {"documents": 10, "tokens": 900, "bytes": 3000} for part in ("train", "validation", "test")}
    dataset = {"parts": parts, "vocabulary": 320, "bytes_per_token": 3.3}
    ids["dataset"] = _make(site, "dataset", [ids["corpus"]], {"name": "dataset"}, dataset)
    for name, bits, batch in (("one", 2.04, 4), ("two", 1.9, 8)):
        steps = 100
        model = {
            "steps": steps, "tokens": steps * 2048, "seconds": 90.0, "loss": 2.3, "validation_loss": 2.4, "parameters": 40_512,
            "tokens_per_second": 2275.0, "budget": "100 steps", "derived": [], "spent": {"forward": 30.0, "backward": 50.0},
            "shape": {"depth": 2, "width": 32, "vocabulary": 320, "context": 1024}, "resumed_at": 0, "peak_memory": 8e8,
        }
        ids[name] = _make(site, "model", [ids["dataset"]], {"train": {"batch": batch}}, model, history)
        card = _scorecard(ids[name], ids["dataset"], bits)
        ids[f"card {name}"] = _make(site, "scorecard", [ids[name], ids["dataset"]], {"name": name}, card)
    size = {"bytes": 16_000, "tokens_per_second": 205.0, "bits_per_byte": 1.9}
    packed = {"quantize": "none", "drift": 0.0, "max_drift": 0.01, "original": size, "package": size}

    def package(folder: Path) -> None:
        ignore = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(site.folder(site.packages[0]), folder, dirs_exist_ok=True, ignore=ignore)

    ids["package"] = _make(site, "package", [ids["two"], ids["card two"]], {"name": "package"}, packed, package)
    site.ledger.promote(ids["package"], "better")
    run = site.ledger.start_run("run")
    site.ledger.end_run(run, "failed", {"error": HOSTILE})
    return ids


def train(site: Site, steps: int = 60) -> Path:
    """The workspace of a training that this process is at."""
    workspace = site.store.workspace("model-00000000000000aa")
    history(workspace, steps)
    note = {"model": "model-00000000000000aa", "unit": "tokens", "budget": "400 steps", "steps": 400, "seconds": None}
    write_note(workspace, note | {"flops": 1e6, "peak": 1e10})
    return workspace


def history(folder: Path, steps: int = 100) -> None:
    lines: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 40) + 2.2 + 0.08 * math.sin(step * 1.7)
        same = {"step": step, "tokens": step * 2048, "seconds": step * 0.9}
        lines.append({**same, "loss": loss, "learning_rate": 0.004, "gradient_norm": 0.5, "tokens_per_second": 2300.0})
        if step % 20 == 0:
            lines.append({**same, "validation_loss": loss + 0.1})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def answered(site: Site, id: str, prompt: str, text: str) -> None:
    """An answer whose text is kept."""
    site.ledger.record_answer(
        id=id, version=1, package=site.packages[0], stored=True, prompt=prompt, text=text, settings={"temperature": 0.5},
        prompt_tokens=4, answer_tokens=6, seconds=0.2, finish_reason="stop",
    )


def _make(
    site: Site, kind: str, parents: list[str], config: Mapping[str, Any], counts: Mapping[str, Any], files: Any = None
) -> str:
    id = site.store.identify(kind, parents, config, 1)
    with site.store.create(id, parents=parents, config=config, version=1, seed=0) as draft:
        (draft.path / "content.txt").write_text(kind)
        if files:
            files(draft.path)
        draft.counts.update(counts)
    site.ledger.record_artifact(site.store.open(id).manifest)
    return id


def _scorecard(model: str, dataset: str, bits: float) -> dict[str, Any]:
    def interval(middle: float, spread: float) -> dict[str, float]:
        return {"value": middle, "low": middle - spread, "high": middle + spread}

    metrics = {
        "loss": interval(bits * 2.5, 0.08), "perplexity": interval(90, 9), "bits_per_byte": interval(bits, 0.05),
        "accuracy": interval(0.38, 0.012),
    }
    return {
        "model": model, "dataset": dataset, "part": "test", "documents": 10, "tokens": 900, "bytes": 3000, "metrics": metrics,
        "left_out": {"documents": 0, "tokens": 0}, "baselines": {"unigram": {"bits_per_byte": interval(2.8, 0.05)}},
        "gate": [{"metric": "bits_per_byte", "bound": "<= 2.5", **interval(bits, 0.05), "passed": True}],
        "samples": [{"prompt": "def ", "text": HOSTILE}],
    }
