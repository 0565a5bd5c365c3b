"""Time to quality: how long Treadle and nanoGPT train on Shakespeare, character by character, until a validation loss is reached.

    TREADLE_DATA=... python benchmarks/train_quality.py --nanogpt CLONE [--seeds 3] [--mark 1.88]
    TREADLE_DATA=... python benchmarks/train_quality.py --nanogpt CLONE --ours ten-minutes --theirs half-hour-middle
    TREADLE_DATA=... python benchmarks/train_quality.py --ablate [--seeds 3]

Both read the first nine tenths of tinyshakespeare as ids of its 65 characters and are measured on the last tenth, in stretches of
the context without overlap, every position counted: nanoGPT's split and figure, of all of the text instead of random samples. The
clock counts training alone: what is measured on the way stops it. nanoGPT trains as its README says for a processor (4 layers of
128, 12 rows of 64, 2,000 steps); its ``model.py`` is imported from the clone and its schedule is written out here. Each run is a
process of its own, in turn. ``--ablate`` changes one of our settings at a time, at the same FLOPs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import heading, measure
from variants import BATCHES, MODELS

from treadle.core.machine import peak_memory
from treadle.core.runtime import choose_runtime
from treadle.data.loader import Windows
from treadle.data.shards import Document, Shard, write_shard
from treadle.model.model import make_model
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.train.loop import Horizon, Loop, mean_loss
from treadle.train.objectives import OBJECTIVES


@dataclass(frozen=True)
class Settings:
    """Of one run. ``steps`` or ``seconds`` ends it; ``train`` is Treadle's ``train:`` section."""

    depth: int
    width: int
    heads: int
    context: int
    batch: int
    rate: float
    steps: int = 0
    seconds: float = 0.0
    train: str = "{}"
    hidden: int = 0
    tied: bool = False
    qk_norm: bool = True
    dropout: float = 0.0
    variant: str = ""
    """Of ``variants.py``."""
    every: float = 0.05
    """Share of the run between two measurements."""


NANOGPT = {
    "processor": Settings(4, 128, 4, 64, 12, 1e-3, steps=2000),
    "half-hour-small": Settings(4, 128, 4, 64, 12, 1e-3, seconds=1800),
    "half-hour-middle": Settings(4, 256, 4, 128, 16, 1e-3, seconds=1800, dropout=0.1),
    "half-hour-large": Settings(6, 384, 6, 256, 64, 1e-3, seconds=1800, dropout=0.2),
}
"""Its README's for a processor, those for a GPU ("large"), and what lies between."""
TREADLE = {
    "processor": Settings(1, 64, 2, 64, 12, 0.02, steps=800),
    "ten-minutes": Settings(4, 128, 4, 128, 12, 0.012, seconds=600),
}
ABLATED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "AdamW, the same rate": {"train": '{"optimizer": "adamw"}'},
    "AdamW, half the rate": {"train": '{"optimizer": "adamw"}', "rate": 0.01},
    "tied embeddings": {"tied": True},
    "no QK norm": {"qk_norm": False},
    "half the rate": {"rate": 0.01},
    "twice the rate": {"rate": 0.04},
    "half the batch": {"batch": 6},
    "twice the batch": {"batch": 24},
    "context 32": {"context": 32, "batch": 24},
    "context 128": {"context": 128, "batch": 6},
    "2 layers": {"depth": 2},
    "4 layers": {"depth": 4},
    "1 layer of 128": {"width": 128, "heads": 4},
    "4 layers of 128": {"depth": 4, "width": 128, "heads": 4},
    "cosine": {"train": '{"schedule": "cosine"}'},
    "constant rate": {"train": '{"schedule": "constant"}'},
    "constant, averaged weights": {"train": '{"schedule": "constant", "average": {"ema": {"decay": 0.98}}}'},
    "stable, then down": {"train": '{"schedule": "stable"}'},
    "warm-up of a tenth": {"train": '{"warmup": 0.1}'},
    "no weight decay": {"train": '{"weight_decay": 0.0}'},
    "no clipping": {"train": '{"clip": 0.0}'},
    "ReLU2 instead of SwiGLU": {"variant": "relu2"},
    "value embeddings": {"variant": "value embeddings"},
    "context from 32 to 64": {"variant": "longer context"},
    "rows from 6 to 18": {"variant": "larger batch"},
}
"""What is changed of the settings ``processor``; steps follow from the FLOPs."""


def characters(data: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids of the train and the validation part, and how many characters there are."""
    text = (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    names = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = np.array([names[character] for character in text], np.int64)
    cut = int(0.9 * len(ids))
    return ids[:cut], ids[cut:], len(names)


def stretches(ids: np.ndarray, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    count = (len(ids) - 1) // context
    x = torch.from_numpy(ids[: count * context].reshape(count, context))
    return x, torch.from_numpy(ids[1 : count * context + 1].reshape(count, context))


Curve = list[tuple[float, float]]
"""Seconds of training, and the loss on the last tenth then."""


def shape_of(settings: Settings, vocabulary: int = 65) -> Shape:
    hidden = settings.hidden or -(-8 * settings.width // 96) * 32
    return Shape(
        vocabulary=vocabulary, context=settings.context, depth=settings.depth, width=settings.width, heads=settings.heads,
        kv_heads=settings.heads, head_dim=settings.width // settings.heads, hidden=hidden, tie_embeddings=settings.tied,
        qk_norm=settings.qk_norm,
    )


def treadle(settings: Settings, data: Path, seed: int) -> Curve:
    train, held_out, vocabulary = characters(data)
    shape = shape_of(settings, vocabulary)
    fixed = {"optimizer": "muon", "checkpoint_every": "1 h", "validate_every": settings.every}
    given = Train.model_validate({**fixed, **json.loads(settings.train)})
    tokens = shape.train_flops * settings.batch * settings.context
    runtime = choose_runtime(given.precision, given.threads, tokens).beside(settings.batch, divisible=True)
    curve: Curve = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, ids in (("train", train), ("validation", held_out)):
            write_shard(folder, part, [Document("all", "shakespeare", ids.tolist(), 0)])
        watched = Windows(Shard(folder, "validation"), settings.context, 0)
        rows = (len(held_out) - 1) // settings.context

        def validate(model: torch.nn.Module) -> float:
            seconds = time.perf_counter() - start - loop.position.spent.get("validation", 0.0)
            loss = mean_loss(model, watched, 128, rows, runtime)
            curve.append((seconds, loss))
            return loss

        model, batches = make_model(shape, seed), Windows(Shard(folder, "train"), settings.context, seed)
        if settings.variant in MODELS:
            MODELS[settings.variant](model, seed)
        ramp = BATCHES.get(settings.variant)
        loop = Loop(
            model, OBJECTIVES["next_token"], ramp(batches, settings.steps) if ramp else batches, validate,
            Horizon(settings.steps or None, settings.seconds or None), given, settings.batch, settings.rate, runtime, folder,
        )
        loop.resume()
        loop.save = lambda wait=True: None  # type: ignore[method-assign]  # the other writes none either
        torch.manual_seed(seed)
        start = time.perf_counter()
        loop.run([])
        loop.close()
    return curve


def nanogpt(settings: Settings, data: Path, seed: int, clone: Path) -> Curve:
    """As nanoGPT's train.py goes about it: random windows, AdamW at 0.9 and 0.99, warm-up over 100 steps, a cosine to a tenth."""
    sys.path.insert(0, str(clone))
    import model as theirs

    torch.manual_seed(seed)
    runtime = choose_runtime("auto")
    train, held_out, vocabulary = characters(data)
    config = theirs.GPTConfig(block_size=settings.context, vocab_size=vocabulary, n_layer=settings.depth, n_head=settings.heads,
                              n_embd=settings.width, dropout=settings.dropout, bias=False)
    network = theirs.GPT(config)
    optimizer = network.configure_optimizers(0.1, settings.rate, (0.9, 0.99), "cpu")
    text, curve, spent = torch.from_numpy(train), [], 0.0
    x_all, y_all = stretches(held_out, settings.context)

    @torch.inference_mode()
    def loss_now() -> float:
        network.eval()
        total = 0.0
        with runtime.autocast():
            for first in range(0, len(x_all), 128):
                x, y = x_all[first : first + 128], y_all[first : first + 128]
                total += float(network(x, y)[1]) * len(x)
        network.train()
        return total / len(x_all)

    step, done, begun = 0, 0.0, time.perf_counter()
    due = settings.every
    while done < 1.0:
        progress = done + (0.5 / settings.steps if settings.steps else 0.0)
        risen = min(1.0, (step + 1) / 101)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * risen * (0.1 + 0.9 * cosine)
        at = torch.randint(len(text) - settings.context, (settings.batch,))
        x = torch.stack([text[i : i + settings.context] for i in at])
        y = torch.stack([text[i + 1 : i + 1 + settings.context] for i in at])
        with runtime.autocast():
            _, loss = network(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds = time.perf_counter() - begun - spent
        done = step / settings.steps if settings.steps else seconds / settings.seconds
        if done >= min(due, 1.0) - 1e-9:
            before = time.perf_counter()
            curve.append((seconds, loss_now()))
            spent += time.perf_counter() - before
            due += settings.every
    return curve


def reached(curve: Curve, mark: float) -> float:
    """Seconds until the loss is at most ``mark``; infinite where it never is."""
    return next((seconds for seconds, loss in curve if loss <= mark), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT to measure beside")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mark", type=float, default=1.88, help="validation loss; nanoGPT's README gives this for a processor")
    parser.add_argument("--ours", choices=TREADLE, default="processor")
    parser.add_argument("--theirs", choices=NANOGPT, default="processor")
    parser.add_argument("--set", action="append", default=[], help="a setting of ours, such as batch=16")
    parser.add_argument("--ablate", nargs="*", metavar="CHANGE", help="change one of our settings at a time, all or these")
    parser.add_argument("--run", nargs=3, metavar=("SYSTEM", "SEED", "SETTINGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_one(given.run[0], int(given.run[1]), Settings(**json.loads(given.run[2])), given.mark, given.nanogpt)
        return
    changes = {key: _value(text) for key, _, text in (setting.partition("=") for setting in given.set)}
    ours, clone = replace(TREADLE[given.ours], **changes), ["--nanogpt", str(given.nanogpt)] if given.nanogpt else []
    if given.ablate is not None:
        chosen = {name: ABLATED[name] for name in given.ablate or ABLATED}
        systems = {name: ("treadle", alike(ours, changed)) for name, changed in chosen.items()}
    else:
        systems = {"Treadle": ("treadle", ours)} | ({"nanoGPT": ("nanogpt", NANOGPT[given.theirs])} if clone else {})
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in systems}
    for seed in range(given.seeds):
        for name, (system, settings) in systems.items():
            words = [*clone, "--mark", str(given.mark), "--run", system, str(seed), json.dumps(asdict(settings))]
            found = measure(__file__, words, choose_runtime("auto").threads)
            curve = found.extra["curve"]
            rows[name].append((reached(curve, given.mark), curve[-1][0], curve[-1][1]))
            print(f"seed {seed}: {name}: {rows[name][-1]}, others {found.others:.0%}", file=sys.stderr)
    for name, (_, settings) in systems.items():
        print(f"{name}: {settings}", file=sys.stderr)
    print(heading(f"Seconds to a validation loss of {given.mark}.", {"torch": torch.__version__}))
    print(f"| | seconds to {given.mark}, median | range | seconds in all | loss at the end, mean | range |\n{'|---' * 6}|")
    for name, figures in rows.items():
        first, whole, last = zip(*figures, strict=True)
        print(
            f"| {name} | {statistics.median(first):.1f} | {min(first):.1f} - {max(first):.1f} | {statistics.median(whole):.1f} "
            f"| {statistics.mean(last):.3f} | {min(last):.3f} - {max(last):.3f} |"
        )


def run_one(system: str, seed: int, settings: Settings, mark: float, clone: Path) -> None:
    data = Path(os.environ["TREADLE_DATA"])
    curve = treadle(settings, data, seed) if system == "treadle" else nanogpt(settings, data, seed, clone)
    print(json.dumps({"speed": 1 / reached(curve, mark), "curve": curve, "peak_memory": peak_memory()}))


def alike(settings: Settings, changed: Mapping[str, Any]) -> Settings:
    """With ``changed``, for as many FLOPs."""
    other = replace(settings, **changed)
    flops = settings.steps * settings.batch * settings.context * shape_of(settings).train_flops
    return replace(other, steps=round(flops / (other.batch * other.context * shape_of(other).train_flops)))


def _value(text: str) -> object:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(found, dict) else found  # "train" is written as JSON


if __name__ == "__main__":
    main()
