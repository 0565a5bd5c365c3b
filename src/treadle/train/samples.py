"""What a model makes of its task, for eyes: text that it goes on with, pictures that it learns from, those that it gets most wrong.

B pictures of H x W pixels and C channels, uint8.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer

from treadle.core.batch import Batch
from treadle.core.runtime import Runtime
from treadle.data.columns import Array
from treadle.data.loader import Examples
from treadle.data.schema import Schema
from treadle.data.shards import END_ID
from treadle.data.targets.base import Target
from treadle.data.targets.scalar import BinaryTarget, ClassTarget, NumberTarget
from treadle.data.tokenizer import decode
from treadle.model.generate import generate, generation_threads
from treadle.model.memory import TextModel
from treadle.model.network import Network
from treadle.spec.stages import Sample
from treadle.spec.units import format_figure
from treadle.train.hooks import Step, TensorBoardHook

TOKENS = 32
"""Of a sample in training: less than what a validation costs."""
_ROWS, _COLUMNS = 512, 8  # validation records that the worst are looked for in; pictures in a row of a sheet
_SIDE, _GAP, _LINE = 96, 4, 12  # pixels: of a picture at least, between pictures, of a line of text
_NAMED = ("category", "binary", "number")


class TextSamples:
    """A hook: at each validation the model goes on with the first prompt of ``evaluate.sample``. Its draws are its own, so that
    training is the same with and without it."""

    def __init__(self, board: TensorBoardHook, model: TextModel, tokenizer: Tokenizer, wanted: Sample, seed: int) -> None:
        self.board, self.model, self.tokenizer, self.wanted, self.seed = board, model, tokenizer, wanted, seed
        self.prompt = wanted.prompts[0]
        self.ids = [END_ID, *tokenizer.encode(self.prompt, add_special_tokens=False).ids][-model.context + 1 :]

    def on_step(self, figures: Step) -> None:
        pass

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        model = self.model
        if next(model.parameters()).device.type != "cpu":  # generation works there
            model = copy.deepcopy(model).to("cpu")
        model.eval()
        count, threads = min(TOKENS, self.wanted.tokens), torch.get_num_threads()
        torch.set_num_threads(generation_threads(model))
        try:
            answer = list(generate(model, self.ids, count, self.wanted.temperature, seed=self.seed, end=END_ID))
        finally:
            torch.set_num_threads(threads)
        self.board.text("sample", self.prompt + decode(self.tokenizer, answer), figures.step)


def pictures_of(batch: Batch, model: Any) -> dict[str, Array]:
    """The batch's pictures (B, H, W, C) by input's name; none for a model that sees none."""
    layouts = model.layouts["inputs"] if isinstance(model, Network) else {}
    return {name: batch.inputs[name].cpu().numpy() for name, layout in layouts.items() if layout.kind == "image"}


def contact_sheet(pictures: Array, captions: Sequence[Sequence[str]] = ()) -> Image.Image:
    """Pictures (B, H, W, C) in rows, each over the lines of its caption; small ones are enlarged."""
    high, wide = pictures.shape[1:3]
    scale = max(1, math.ceil(_SIDE / wide))
    columns = min(_COLUMNS, len(pictures))
    lines = max(map(len, captions), default=0)
    cell_wide, cell_high = wide * scale + _GAP, high * scale + _GAP + lines * _LINE
    sheet = Image.new("RGB", (columns * cell_wide + _GAP, -(-len(pictures) // columns) * cell_high + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(pictures):
        left, top = number % columns * cell_wide + _GAP, number // columns * cell_high + _GAP
        picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        sheet.paste(picture.resize((wide * scale, high * scale), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(captions[number] if captions else ()):
            pen.text((left, top + high * scale + line * _LINE), text[: wide * scale // 6], fill="black")
    return sheet


@torch.inference_mode()
def most_wrong(
    model: Network, held_out: Examples, rows: int, batch: int, schema: Schema, runtime: Runtime, count: int = 16
) -> tuple[dict[str, Array], list[list[str]]]:
    """Of the first ``rows`` validation examples, at most 512, the pictures with the ``count`` highest losses, the highest first,
    and of each what the model says, what is right, and the loss. ``batch`` are read at once."""
    model.eval()
    losses, outputs, batches = [], [], []
    rows = min(rows, _ROWS)
    for first in range(0, rows, batch):
        part = held_out.rows(np.arange(first, min(first + batch, rows))).to(runtime.device)
        with runtime.autocast():
            made = model(part)
            each = model.losses(made, part)
        losses.append(torch.stack([loss.float().nan_to_num() for loss in each.values()]).sum(0).cpu())  # (B,)
        outputs.append({name: found.float().cpu() for name, found in model.readable(made).items() if _named(schema, name)})
        batches.append(part.to(torch.device("cpu")))
    loss = torch.cat(losses)
    worst = loss.argsort(descending=True, stable=True)[:count]
    said = {name: torch.cat([part[name] for part in outputs])[worst].numpy() for name in outputs[0]}
    right = {name: torch.cat([part.targets[name] for part in batches])[worst].numpy() for name in outputs[0]}
    pictures = {
        name: np.concatenate([pictures_of(part, model)[name] for part in batches])[worst.numpy()]
        for name in pictures_of(batches[0], model)
    }
    return pictures, _captions(schema, said, right, loss[worst].tolist())


def _named(schema: Schema, head: str) -> bool:
    """Whether answers and right answers can be written under a picture."""
    return schema.targets[head].layout.kind in _NAMED


def _captions(
    schema: Schema, said: Mapping[str, Array], right: Mapping[str, Array], losses: Sequence[float]
) -> list[list[str]]:
    lines: list[list[str]] = [[] for _ in losses]
    for name, outputs in said.items():
        target = schema.targets[name]
        for row, (answer, true) in enumerate(zip(target.answers(outputs), right[name], strict=True)):
            lines[row] += [f"says {_short(answer['answer'])}", f"is {_right(target, true)}"]
    return [[*found, f"loss {format_figure(loss, 3)}"] for found, loss in zip(lines, losses, strict=True)]


def _right(target: Target, encoded: float) -> str:
    """The right answer in words, of one that ``target`` encoded."""
    if isinstance(target, NumberTarget):
        return _short(float(target.numbers(np.array([encoded]))[0])) if math.isfinite(encoded) else "not known"
    names = target.classes if isinstance(target, ClassTarget) else target.names if isinstance(target, BinaryTarget) else []
    return names[int(encoded)] if math.isfinite(encoded) and encoded >= 0 else "not known"


def _short(answer: Any) -> str:
    return format_figure(answer, 3) if isinstance(answer, float) else str(answer)
