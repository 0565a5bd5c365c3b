"""What is asked of every decoder."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.model.layers.quantized import quantize_language
from treadle.model.model import LanguageModel, make_model
from treadle.model.passes import PAGE, Decoder, Pages, Pass
from treadle.spec.shape import Shape


def model_of(shape: Shape, kind: str) -> LanguageModel:
    model = make_model(shape, 0).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float() if kind == "bf16" else p)
            if p.dim() == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    if kind in ("int8", "int4"):
        quantize_language(model, kind)
    return model


def read(decoder: Decoder, pages: Pages, text: Sequence[int], held: Sequence[int], start: int = 0) -> Tensor:
    """Scores (T, V) behind every token of ``text``, which begins at ``start``."""
    count = len(text)
    given = Pass(text, range(start, start + count), [0] * count, torch.tensor([list(held)]), range(count))
    return decoder.read(given, pages)


def words(shape: Shape, count: int, seed: int = 0) -> list[int]:
    return [random.Random(seed + place).randrange(shape.vocabulary) for place in range(count)]


def check_company(alone: Decoder, together: Decoder, lengths: Sequence[int], draw: random.Random, most: int = 40) -> None:
    """Texts of these ``lengths`` get the same scores, to the bit, each alone at once, and in pieces of up to ``most`` tokens beside
    the others."""
    texts = [words(alone.shape, length, draw.randrange(10**6)) for length in lengths]
    counts = [-(-length // PAGE) for length in lengths]
    pages, free = together.pages(sum(counts)), draw.sample(range(sum(counts)), sum(counts))
    held = [[free.pop() for _ in range(count)] for count in counts]
    table = torch.tensor([row + [0] * (max(counts) - len(row)) for row in held])
    found: list[list[Tensor]] = [[] for _ in texts]
    done = [0] * len(texts)
    while any(count < len(text) for count, text in zip(done, texts, strict=True)):
        rows = [row for row in range(len(texts)) if done[row] < len(texts[row]) and draw.random() < 0.7]
        pieces = [(row, min(draw.choice([1, 1, 2, 5, 17, most]), len(texts[row]) - done[row])) for row in rows]
        ids = [texts[row][done[row] + i] for row, count in pieces for i in range(count)]
        places = [done[row] + i for row, count in pieces for i in range(count)]
        if not ids:
            continue
        owners = [row for row, count in pieces for _ in range(count)]
        scores = together.read(Pass(ids, places, owners, table, range(len(ids))), pages)
        for row, count in pieces:
            found[row].append(scores[:count])
            scores, done[row] = scores[count:], done[row] + count
    for row, text in enumerate(texts):
        assert torch.equal(torch.cat(found[row]), read(alone, alone.pages(counts[row]), text, range(counts[row])))
