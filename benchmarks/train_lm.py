"""Tokens per second of training: Treadle's loop beside nanoGPT's model and settings, and beside the transformers Trainer.

    python benchmarks/train_lm.py [--size 12M] [--nanogpt CLONE] [--rounds 3] [--steps 4]

All have the same shape (12M: 6 layers of 384 features, 6 heads, context 256, batch 32, a vocabulary of 4,096; 50M: 10 layers of
640 features, context 512, batch 16, a vocabulary of 8,192), no dropout, AdamW with clipping at 1.0, the same number of threads and
the same precision (bf16 where the processor has it). Each is measured in a process of its own, in turn; a figure is the median of
its steps after the first. nanoGPT is measured where ``--nanogpt`` names a clone of it: its ``model.py`` is imported from there.
Treadle's loop runs whole, with history and clipping, as ``treadle run`` runs it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import alternate, heading, table

from treadle.core.machine import peak_memory
from treadle.core.runtime import Runtime, choose_runtime
from treadle.data.loader import Windows
from treadle.data.shards import Document, Shard, write_shard
from treadle.model.model import make_model
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.train.hooks import Step
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

SIZES = {
    "12M": (Shape(vocabulary=4096, context=256, depth=6, width=384, heads=6, kv_heads=6, head_dim=64, hidden=1024), 32),
    "50M": (Shape(vocabulary=8192, context=512, depth=10, width=640, heads=10, kv_heads=5, head_dim=64, hidden=1728), 16),
}
SHAPE, BATCH = SIZES["12M"]
RATE = 1e-3


def treadle(folder: Path, steps: int, runtime: Runtime) -> list[float]:
    """Seconds of each step."""
    seconds: list[float] = []

    class Watch:
        def on_step(self, figures: Step) -> None:
            seconds.append(figures.seconds - sum(seconds))

        def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
            pass

    settings = Train(validate_every=0.0, checkpoint_every="1 h")
    loop = Loop(
        make_model(SHAPE, 0), OBJECTIVES["next_token"], Windows(Shard(folder, "train"), SHAPE.context, 0), lambda model: 0.0,
        Horizon(steps, None), settings, BATCH, RATE, runtime.beside(BATCH, divisible=True), folder,
    )
    loop.resume()
    loop.save = lambda: None  # type: ignore[method-assign] - the others write no checkpoint either
    loop.run([Watch()])
    return seconds


def nanogpt(folder: Path, steps: int, runtime: Runtime, clone: Path) -> list[float]:
    """As nanoGPT's train.py goes about it: random windows of a memory map, forward, backward, clip, step."""
    sys.path.insert(0, str(clone))
    import model as theirs

    config = theirs.GPTConfig(block_size=SHAPE.context, vocab_size=SHAPE.vocabulary, n_layer=SHAPE.depth, n_head=SHAPE.heads,
                              n_embd=SHAPE.width, dropout=0.0, bias=False)
    network = theirs.GPT(config)
    optimizer = network.configure_optimizers(0.1, RATE, (0.9, 0.95), "cpu")
    tokens = np.memmap(folder / "train.tokens", np.uint16, "r")
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        at = torch.randint(len(tokens) - SHAPE.context, (BATCH,))
        x = torch.stack([torch.from_numpy(tokens[i : i + SHAPE.context].astype(np.int64)) for i in at])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + SHAPE.context].astype(np.int64)) for i in at])
        with runtime.autocast():
            _, loss = network(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def trainer(folder: Path, steps: int, runtime: Runtime) -> list[float]:
    """The same architecture (Qwen3) under ``transformers.Trainer``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    stamps: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

        def on_step_end(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

    tokens = torch.from_numpy(np.fromfile(folder / "train.tokens", np.uint16).astype(np.int64))
    rows = [tokens[i : i + SHAPE.context] for i in range(0, len(tokens) - SHAPE.context, SHAPE.context)]
    config = Qwen3Config(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.width, intermediate_size=SHAPE.hidden, num_hidden_layers=SHAPE.depth,
        num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.kv_heads, head_dim=SHAPE.head_dim,
        max_position_embeddings=SHAPE.context, tie_word_embeddings=True, use_cache=False,
    )
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE, use_cpu=True,
        bf16=runtime.precision == "bf16", max_grad_norm=1.0, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in rows]
    Trainer(Qwen3ForCausalLM(config), arguments, train_dataset=data, callbacks=[Watch()]).train()  # type: ignore[arg-type]
    # From the end of one step to the end of the next, so that the loader's time counts as it does for the others.
    ends = stamps[1::2]
    return [ends[0] - stamps[0], *np.diff(ends).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT to measure beside")
    parser.add_argument("--size", choices=list(SIZES), default="12M", help="parameters, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps per measurement; the first is not counted")
    parser.add_argument("--threads", type=int, default=None, help="default: one per core")
    parser.add_argument("--system", choices=["treadle", "nanogpt", "trainer"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    global SHAPE, BATCH
    SHAPE, BATCH = SIZES[given.size]
    runtime = choose_runtime("auto", given.threads)
    if given.system:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tokens = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (given.steps + 1) * BATCH * SHAPE.context)
            write_shard(folder, "train", [Document("all", "random", tokens.tolist(), 0)])
            torch.manual_seed(0)
            more = (given.nanogpt,) if given.system == "nanogpt" else ()
            system = {"treadle": treadle, "nanogpt": nanogpt, "trainer": trainer}[given.system]
            seconds = system(folder, given.steps, runtime, *more)
        speed = BATCH * SHAPE.context / statistics.median(seconds[1:])
        print(json.dumps({"speed": speed, "peak_memory": peak_memory()}))
        return
    words = ["--size", given.size, "--steps", str(given.steps), "--threads", str(runtime.threads)]
    systems = {"Treadle": [*words, "--system", "treadle"]}
    if given.nanogpt:
        systems["nanoGPT"] = [*words, "--system", "nanogpt", "--nanogpt", str(given.nanogpt)]
    systems["transformers Trainer (Qwen3)"] = [*words, "--system", "trainer"]
    results = alternate(__file__, systems, given.rounds, runtime.threads)
    from transformers import __version__ as transformers_version

    size = f"{SHAPE.parameters / 1e6:.1f}M parameters, {SHAPE.depth} x {SHAPE.width}, context {SHAPE.context}, batch {BATCH}"
    what = f"Training, {size}, {runtime.precision}, {runtime.threads} threads."
    print(heading(what, {"torch": torch.__version__, "transformers": transformers_version}))
    print(table(results))


if __name__ == "__main__":
    main()
