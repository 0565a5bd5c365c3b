"""Tokens per second of training: Treadle's loop beside nanoGPT's model and settings, and beside the transformers Trainer.

    python benchmarks/train_lm.py [--size 12M] [--nanogpt CLONE] [--rounds 3] [--steps 4]
    TREADLE_DATA=... python benchmarks/train_lm.py --documents mixed [--rounds 3] [--steps 4] [--processor]

All have the same shape (12M: 6 layers of 384 features, 6 heads, context 256, batch 32, a vocabulary of 4,096; 50M: 10 layers of
640 features, context 512, batch 16, a vocabulary of 8,192), no dropout, AdamW with clipping at 1.0, the same number of threads and
the same precision (bf16 where the processor has it). Each is measured in a process of its own, in turn; a figure is the median of
its steps after the first. nanoGPT is measured where ``--nanogpt`` names a clone of it, as it is and compiled: its ``model.py`` is
imported from there. Treadle's loop runs whole, with history and clipping, as ``treadle run`` runs it.

``--documents`` trains the 12M shape on real texts of mixed length instead, each apart from the others, with a context of 512:
Treadle in full rows, the Trainer with a document in each row, filled up to the longest of the batch, in random order and once more
with documents of like length together (``group_by_length``). What counts are tokens of text per second, of all steps after the
first; a document of more than 512 tokens is cut for all of them. ``--processor`` takes the processor time of one thread, on a busy
machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import Result, alternate, heading, table

from treadle.core.machine import peak_memory
from treadle.core.runtime import Runtime, choose_runtime, matrix_peak
from treadle.data.loader import Examples, Windows
from treadle.data.packing import Packed
from treadle.data.shards import END_ID, Document, Shard, write_shard
from treadle.data.tokenizer import encode_all, train_tokenizer
from treadle.model.model import make_model
from treadle.plan.parts import swift_parts
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.train.hooks import Step
from treadle.train.loop import Horizon, Loop
from treadle.train.objectives import OBJECTIVES

SIZES = {
    "12M": (Shape(vocabulary=4096, context=256, depth=6, width=384, heads=6, kv_heads=6, head_dim=64, hidden=1024), 32),
    "50M": (Shape(vocabulary=8192, context=512, depth=10, width=640, heads=10, kv_heads=5, head_dim=64, hidden=1728), 16),
}
"""Shape and rows of a batch."""
DOCUMENTS = replace(SIZES["12M"][0], context=512)
DOCUMENT_ROWS = 32
RATE = 1e-3


def mixed(data: Path) -> list[str]:
    """Sentences, news, problems with their solutions, instructions with answers, and web pages."""
    found = [line.rsplit("\t", 1)[0] for line in (data / "sst2/train.tsv").read_text(encoding="utf-8").splitlines()]
    with (data / "ag-news-test/test.csv").open(encoding="utf-8", newline="") as stream:
        found += [f"{title}\n{text}" for _, title, text in csv.reader(stream)]
    for line in (data / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        found.append(f"{problem['question']}\n{problem['answer']}")
    lines = (data / "pretrain-demo/c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    return found + instructions(data) + [json.loads(line)["text"] for line in lines]


def instructions(data: Path) -> list[str]:
    """Instructions with answers alone."""
    given = json.loads((data / "instruct-demo/alpaca_en_demo.json").read_text(encoding="utf-8"))
    return ["\n".join(filter(None, (one["instruction"], one["input"], one["output"]))) for one in given]


TEXTS: dict[str, Callable[[Path], list[str]]] = {"mixed": mixed, "instructions": instructions}


def write_texts(folder: Path, name: str) -> str:
    """The texts as a shard in ``folder``; gives what they are in words."""
    texts = TEXTS[name](Path(os.environ["TREADLE_DATA"]))
    tokenizer = train_tokenizer(texts, DOCUMENTS.vocabulary)
    write_shard(folder, "train", [
        Document(str(number), name, [*ids, END_ID], 0) for number, ids in enumerate(encode_all(tokenizer, texts))
    ])
    lengths = np.diff(Shard(folder, "train").starts)
    marks = ", ".join(f"{np.quantile(lengths, share):.0f}" for share in (0.1, 0.5, 0.9, 0.99))
    return f"{len(lengths):,} documents of {lengths.mean():.0f} tokens on average (10%, 50%, 90%, 99%: {marks})"


def treadle(
    folder: Path, steps: int, runtime: Runtime, shape: Shape, batch: int, kind: type[Examples] = Windows,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each step."""
    stamps: list[float] = []

    class Watch:
        def on_step(self, figures: Step) -> None:
            stamps.append(clock())

        def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
            pass

    runtime = runtime.beside(batch, divisible=True)
    parts = swift_parts(batch, shape.train_flops * batch * shape.context, runtime.workers)
    settings = Train(validate_every=0.0, checkpoint_every="1 h", accumulate=parts)
    loop = Loop(
        make_model(shape, 0), OBJECTIVES["next_token"], kind(Shard(folder, "train"), shape.context, 0),  # type: ignore[call-arg]
        lambda model: 0.0,
        Horizon(steps, None), settings, batch, RATE, runtime, folder,
    )
    loop.resume()
    loop.save = lambda wait=True: None  # type: ignore[method-assign] - the others write no checkpoint either
    stamps.append(clock())
    loop.run([Watch()])
    return np.diff(stamps).tolist()


def nanogpt(
    folder: Path, steps: int, runtime: Runtime, shape: Shape, batch: int, clone: Path, compiled: bool = False
) -> list[float]:
    """As nanoGPT's train.py goes about it: random windows of a memory map, forward, backward, clip, step."""
    sys.path.insert(0, str(clone))
    import model as theirs

    config = theirs.GPTConfig(block_size=shape.context, vocab_size=shape.vocabulary, n_layer=shape.depth, n_head=shape.heads,
                              n_embd=shape.width, dropout=0.0, bias=False)
    network = theirs.GPT(config)
    optimizer = network.configure_optimizers(0.1, RATE, (0.9, 0.95), "cpu")
    network = torch.compile(network) if compiled else network
    tokens = np.memmap(folder / "train.tokens", np.uint16, "r")
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        at = torch.randint(len(tokens) - shape.context, (batch,))
        x = torch.stack([torch.from_numpy(tokens[i : i + shape.context].astype(np.int64)) for i in at])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + shape.context].astype(np.int64)) for i in at])
        with runtime.autocast():
            _, loss = network(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def trainer(folder: Path, steps: int, runtime: Runtime, shape: Shape, batch: int) -> list[float]:
    """The same architecture (Qwen3) under ``transformers.Trainer``."""
    tokens = torch.from_numpy(np.fromfile(folder / "train.tokens", np.uint16).astype(np.int64))
    rows = [tokens[i : i + shape.context] for i in range(0, len(tokens) - shape.context, shape.context)]
    return _trainer(folder, steps, runtime, shape, batch, [{"input_ids": row, "labels": row} for row in rows])


def padded(
    folder: Path, steps: int, runtime: Runtime, grouped: bool, clock: Callable[[], float]
) -> tuple[list[float], list[int], list[int]]:
    """The same with a document in each row; seconds, tokens of text and positions of each step. ``grouped``: those of like length
    together, in batches from all over the first pass, since the Trainer begins with the longest."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast
    from transformers.trainer_pt_utils import LengthGroupedSampler

    shard = Shard(folder, "train")
    pieces = [
        document[first : first + DOCUMENTS.context].astype(np.int64)
        for document in map(shard.document, range(len(shard))) for first in range(0, len(document), DOCUMENTS.context)
    ]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(["a"], 260), pad_token="<|endoftext|>")
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    text, positions = [], []

    def count(rows: list[dict[str, Any]]) -> Any:
        found = collate(rows)
        text.append(int(found["attention_mask"].sum()))
        positions.append(found["attention_mask"].numel())
        return found

    order = torch.randperm(len(pieces)).tolist()
    if grouped:
        order = list(LengthGroupedSampler(DOCUMENT_ROWS, lengths=list(map(len, pieces))))
        whole = len(order) // DOCUMENT_ROWS
        order = [i for at in range(steps) for i in order[(at * whole // steps) * DOCUMENT_ROWS :][:DOCUMENT_ROWS]]
    rows = [{"input_ids": pieces[i]} for i in order[: (steps + 1) * DOCUMENT_ROWS]]
    seconds = _trainer(folder, steps, runtime, DOCUMENTS, DOCUMENT_ROWS, rows, clock, data_collator=count)
    return seconds, text[:steps], positions[:steps]


def _trainer(
    folder: Path, steps: int, runtime: Runtime, shape: Shape, batch: int, rows: list[dict[str, Any]],
    clock: Callable[[], float] = time.perf_counter, **more: Any,
) -> list[float]:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    stamps: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            stamps.append(clock())

        def on_step_end(self, *_: object, **__: object) -> None:
            stamps.append(clock())

    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden, num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        max_position_embeddings=shape.context, tie_word_embeddings=True, use_cache=False,
    )
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=RATE, use_cpu=True,
        bf16=runtime.precision == "bf16", max_grad_norm=1.0, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        **({"train_sampling_strategy": "sequential"} if more else {}),
    )
    Trainer(Qwen3ForCausalLM(config), arguments, train_dataset=rows, callbacks=[Watch()], **more).train()  # type: ignore[arg-type]
    # From the end of one step to the end of the next, so that the loader's time counts as it does for the others.
    ends = stamps[1::2]
    return [ends[0] - stamps[0], *np.diff(ends).tolist()]


def measure_documents(system: str, folder: Path, steps: int, runtime: Runtime, clock: Callable[[], float]) -> None:
    """One of them in this process; the first step is not counted."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        for file in folder.iterdir():
            (Path(name) / file.name).symlink_to(file)
        if system == "packed":
            seconds = treadle(Path(name), steps, runtime, DOCUMENTS, DOCUMENT_ROWS, Packed, clock)
            text = positions = [DOCUMENT_ROWS * DOCUMENTS.context] * steps
        else:
            seconds, text, positions = padded(Path(name), steps, runtime, system == "grouped", clock)
    real = sum(text[1:])
    print(json.dumps({"speed": real / sum(seconds[1:]), "peak_memory": peak_memory(), "share": real / sum(positions[1:])}))


def compare_documents(given: argparse.Namespace, runtime: Runtime) -> None:
    systems = {"Treadle": "packed", "Trainer, padding": "padded", "Trainer, group_by_length": "grouped"}
    with tempfile.TemporaryDirectory() as name:
        about = write_texts(Path(name), given.documents)
        words = ["--threads", str(runtime.threads), "--folder", name, *["--processor"] * given.processor]
        steps = {"packed": max(2, given.steps // 2), "padded": given.steps, "grouped": 2 * given.steps}  # by the text of a step
        runs = {title: [*words, "--system", system, "--steps", str(steps[system])] for title, system in systems.items()}
        results = alternate(__file__, runs, given.rounds, runtime.threads, tries=1 if given.processor else 3)
    from transformers import __version__ as transformers_version

    time_of = "processor time" if given.processor else "wall time"
    what = f"Training on {given.documents} texts, {about}, {runtime.precision}, {runtime.threads} threads, {time_of}."
    print(heading(what, {"torch": torch.__version__, "transformers": transformers_version}))
    print(table(results))
    print(f"Share of the positions that are text: {shares(results)}.")


def shares(results: Mapping[str, Sequence[Result]]) -> str:
    """The median of each system's ``share``, in words."""
    return ", ".join(f"{name} {statistics.median(one.extra['share'] for one in found):.0%}" for name, found in results.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT to measure beside")
    parser.add_argument("--size", choices=list(SIZES), default="12M", help="parameters, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps per measurement; the first is not counted")
    parser.add_argument("--threads", type=int, default=None, help="default: one per core")
    parser.add_argument("--documents", choices=TEXTS, help="real texts, each apart from the others")
    parser.add_argument("--processor", action="store_true", help="count the processor time of one thread")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    shape, batch = SIZES[given.size]
    runtime = choose_runtime("auto", 1 if given.processor else given.threads)
    if given.documents:
        compare_documents(given, runtime)
        return
    if given.system in ("packed", "padded", "grouped"):
        clock = time.process_time if given.processor else time.perf_counter
        measure_documents(given.system, given.folder, given.steps, runtime, clock)
        return
    if given.system:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tokens = np.random.default_rng(0).integers(0, shape.vocabulary, (given.steps + 1) * batch * shape.context)
            write_shard(folder, "train", [Document("all", "random", tokens.tolist(), 0)])
            torch.manual_seed(0)
            more = (given.nanogpt,) if given.nanogpt else ()
            system = {
                "treadle": treadle, "nanogpt": nanogpt, "compiled": partial(nanogpt, compiled=True), "trainer": trainer,
            }[given.system]
            seconds = system(folder, given.steps, runtime, shape, batch, *more)
        speed, memory = batch * shape.context / statistics.median(seconds[1:]), peak_memory()
        print(json.dumps({"speed": speed, "peak_memory": memory, "share": speed * shape.train_flops / matrix_peak(runtime)}))
        return
    words = ["--size", given.size, "--steps", str(given.steps), "--threads", str(runtime.threads)]
    systems = {"Treadle": [*words, "--system", "treadle"]}
    if given.nanogpt:
        clone = ["--nanogpt", str(given.nanogpt)]
        systems["nanoGPT"] = [*words, "--system", "nanogpt", *clone]
        systems["nanoGPT, compiled"] = [*words, "--system", "compiled", *clone]
    systems["transformers Trainer (Qwen3)"] = [*words, "--system", "trainer"]
    results = alternate(__file__, systems, given.rounds, runtime.threads)
    from transformers import __version__ as transformers_version

    size = f"{shape.parameters / 1e6:.1f}M parameters, {shape.depth} x {shape.width}, context {shape.context}, batch {batch}"
    what = f"Training, {size}, {runtime.precision}, {runtime.threads} threads."
    print(heading(what, {"torch": torch.__version__, "transformers": transformers_version}))
    print(table(results))
    per_token = f"{shape.train_flops / 1e6:.1f} MFLOP per token"
    print(f"\nShare of a large matrix product's FLOP/s, at {per_token}: {shares(results)}.")


if __name__ == "__main__":
    main()
