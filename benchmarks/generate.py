"""Tokens per second of greedy generation from one saved folder: Treadle, float32 and int8, beside ``transformers``.

    python benchmarks/generate.py [--streams 1 8] [--rounds 3]

A model with random weights (speed does not depend on them) is written as a Hugging Face folder, and each system opens that
folder in a process of its own, in turn. The prompt has 64 tokens, 128 are generated for each stream; a figure is the median of
three generations after a short one to warm up. The float32 systems' tokens are compared: equal weights must give equal tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import Result, alternate, heading, table

from treadle.core.machine import peak_memory
from treadle.core.runtime import choose_runtime
from treadle.model.generate import make_memory
from treadle.model.hub import load_model, save_model
from treadle.model.layers.quantized import quantize_modules
from treadle.model.memory import Part
from treadle.model.model import make_model
from treadle.spec.shape import Shape

SHAPE = Shape(vocabulary=8192, context=256, depth=10, width=640, heads=10, kv_heads=5, head_dim=64, hidden=1728)
PROMPT, NEW = 64, 128
TIMES = 3


@torch.inference_mode()
def treadle(folder: Path, streams: int) -> Callable[[int], list[int]]:
    model, prompts = load_model(folder), _prompts(streams).tolist()
    memory = make_memory(model, streams)

    def generate(count: int) -> list[int]:
        first = []
        for slot, prompt in enumerate(prompts):
            memory.release(slot)
            memory.admit(slot, prompt, PROMPT + count, reader=str(time.monotonic_ns()))  # so that none is known from before
        tokens = memory.read_parts(model, [Part(slot, prompt) for slot, prompt in enumerate(prompts)]).argmax(-1).tolist()
        for _ in range(count - 1):
            first.append(tokens[0])
            tokens = memory.read_parts(model, [Part(slot, [token]) for slot, token in enumerate(tokens)]).argmax(-1).tolist()
        return [*first, tokens[0]]

    return generate


def transformers(folder: Path, streams: int) -> Callable[[int], list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = _prompts(streams)
    mask = torch.ones_like(prompt)

    def generate(count: int) -> list[int]:
        with torch.inference_mode():
            settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
            out = model.generate(prompt, attention_mask=mask, **settings)
        return [int(token) for token in out[0, PROMPT:]]

    return generate


def _prompts(streams: int) -> torch.Tensor:
    return torch.randint(1, SHAPE.vocabulary, (streams, PROMPT), generator=torch.Generator().manual_seed(1))


def write_folders(root: Path) -> dict[str, Path]:
    """The same weights as float32 and as int8."""
    model = make_model(SHAPE, 0)
    folders = {"float32": root / "float32", "int8": root / "int8"}
    for name, folder in folders.items():
        if name == "int8":
            quantize_modules(model)
        folder.mkdir()
        save_model(model, folder)
    return folders


def measure(system: str, folder: Path, streams: int) -> None:
    generate = {"treadle": treadle, "transformers": transformers}[system](folder, streams)
    generate(8)
    seconds, tokens = [], []
    for _ in range(TIMES):
        start = time.perf_counter()
        tokens = generate(NEW)
        seconds.append(time.perf_counter() - start)
    assert len(tokens) == NEW
    print(json.dumps({"speed": streams * NEW / statistics.median(seconds), "peak_memory": peak_memory(), "tokens": tokens}))


def alike(results: dict[str, list[Result]]) -> float:
    """Share of the generated tokens that are the same in both float32 systems, up to the first difference."""
    ours, theirs = (list(results[name][0].extra["tokens"]) for name in ("Treadle float32", "transformers float32"))
    same = next((place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    return same / len(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="sequences at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="default: one per core")
    parser.add_argument("--system", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    runtime = choose_runtime("float32", given.threads)
    if given.system:
        measure(given.system[0], Path(given.system[1]), given.streams[0])
        return
    from transformers import __version__ as transformers_version

    what = f"Generation, {SHAPE.parameters / 1e6:.1f}M parameters, prompt {PROMPT}, {NEW} new tokens, {runtime.threads} threads."
    print(heading(what, {"torch": torch.__version__, "transformers": transformers_version}))
    with tempfile.TemporaryDirectory() as root:
        folders = write_folders(Path(root))
        for streams in given.streams:
            words = ["--threads", str(runtime.threads), "--streams", str(streams), "--system"]
            systems = {
                "Treadle float32": [*words, "treadle", str(folders["float32"])],
                "Treadle int8": [*words, "treadle", str(folders["int8"])],
                "transformers float32": [*words, "transformers", str(folders["float32"])],
            }
            results = alternate(__file__, systems, given.rounds, runtime.threads)
            print(f"{streams} at once; {alike(results):.0%} of the float32 tokens are the same.\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
