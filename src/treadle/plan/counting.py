"""What a run takes by arithmetic alone: tokens, steps, FLOPs, memory, disk. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from treadle.core import native
from treadle.spec.derive import derive
from treadle.spec.project import ProjectSpec
from treadle.spec.shape import QUERIES, REMADE, SCORES_HELD, Shape
from treadle.spec.units import Budget, format_size

PROGRAM = 370_000_000
"""Bytes of the interpreter, torch and the other libraries once they have computed something (measured, Linux x86-64)."""

_FLOAT = 4
_TEXT_COPIES = 20
"""Bytes of memory per byte of text while it is prepared: text, shingles, the words counted for the tokenizer, tokens (measured)."""
_NGRAM_BYTES = 48
"""Bytes per training token while the trigram baseline is counted (measured)."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a stage holds at its peak, by what they are for."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Work:
    """How long training is, in every unit."""

    steps: int
    tokens: int
    epochs: float
    flops: float


def layer_floats(shape: Shape, dropout: float = 0.0, positions: float = math.inf) -> float:
    """Numbers per token that the backward pass needs from one layer's forward pass of so many ``positions``.

    Of width D, query width E, key width K, hidden H: two norms keep their input (2 D, 2 scales); attention keeps turned queries and
    keys (E + K), values (K) and its result for documents of each length (E, a log-sum per head), and query-key norms their input
    (E + K, a scale per head); SwiGLU keeps gate and up (2 H). Small ones keep beside these what large ones make anew
    (``model/layers/recompute.py``): of each norm what it gives, before and after its weights, attention's result for all documents
    together, and SwiGLU's product; turned queries and keys are made anew where norms keep what they come from. Dropout keeps its
    masks, and makes attention keep three score matrices, with the keys and values repeated for every query head.
    ``tests/plan/test_counting.py`` compares this with what autograd saves.
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    anew = shape.qk_norm and not dropout and positions * query >= REMADE
    floats: float = 2 * shape.width + 2 + query + key + (0 if anew else query + key) + shape.heads + 2 * shape.hidden
    floats += 4 * _small(positions, shape.width) + _small(positions, query) + _small(positions, shape.hidden)
    if shape.qk_norm:
        floats += query + key + shape.heads + shape.kv_heads + _small(positions, query) + _small(positions, key)
    if dropout:
        floats += 2 * shape.width + 3 * shape.heads * shape.context + query - 2 * key - shape.heads
    return floats


def fused_floats(shape: Shape, size: int) -> float:
    """The same where compiled kernels compute the layer (``model/layers/fused.py``), in numbers of 32 bits, activations having
    ``size`` bytes: the inputs of two norms and a scale of each (2 D + 2), and as activations projections (E + 2 K), queries, keys
    and values of every head (3 E), attention's result (E), gate and up (2 H), and of each head the weights of all keys that a block
    of ``QUERIES`` may see, in rows of one document, or where a kernel computes attention one number of 32 bits."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    always, run = 2 * shape.width + 2 + (5 * query + 2 * key + 2 * shape.hidden) * size / _FLOAT, native.kernels()
    if run and run.attends("torch.bfloat16" if size == 2 else "torch.float32", shape.head_dim):
        return always + shape.heads
    ends = [(at, min(at + QUERIES, shape.context)) for at in range(0, shape.context, QUERIES)]
    seen = sum((last - first) * last for first, last in ends) / shape.context
    return always + shape.heads * seen * size / _FLOAT


def _small(positions: float, width: int) -> int:
    """Numbers per token of a tensor that is made anew where it is large."""
    return width if positions * width < REMADE else 0


def activation_floats(
    shape: Shape, dropout: float = 0.0, recompute: bool = False, positions: float = math.inf, fused: int = 0
) -> float:
    """Numbers per token that the backward pass needs of all layers, the final norm (2 D, 1 scale) and the rotation (2 for each
    feature of a head), without the scores; ``recompute``: of each layer its input, and one layer's while it is computed again.
    ``fused``: bytes of an activation where compiled kernels compute the layers (of the final norm D, of the rotation nothing)."""
    layer = fused_floats(shape, fused) if fused else layer_floats(shape, dropout, positions)
    layers = shape.depth * shape.width + layer if recompute else shape.depth * layer
    rest = 1 if fused else 1 + shape.width + _small(positions, shape.width) + 2 * shape.head_dim
    return layers + shape.width + rest


def passing_floats(shape: Shape) -> float:
    """Numbers per token beside those: what passes through a layer (4 D + 2 (E + K) + 2 H), and twice as much of gradients and gaps
    between what was freed (measured)."""
    return 3 * (4 * shape.width + 2 * (shape.heads + shape.kv_heads) * shape.head_dim + 2 * shape.hidden)


def train_memory(
    shape: Shape, rows: int, dropout: float = 0.0, precision: str = "float32", copies: float = 2, workers: int = 1,
    recompute: bool = False, kernels: bool = False,
) -> Memory:
    """Peak of a training step that computes ``rows`` sequences at once, by as many ``workers`` where the rows fall to them evenly,
    else by one: float32 weights, gradients of each worker and what the optimiser remembers of each weight (``copies`` numbers of
    32 bits; AdamW: 2), activations (of whole layers that are computed again, if ``recompute``) with those that pass through a
    layer, and of the output layer, whose scores are computed chunk by chunk, two chunks, its input and the gradient of that, and
    the gradient of its matrix twice (``kernels``: a copy of all matrices for each worker); and the copy of weights and optimiser
    that is written as a checkpoint meanwhile."""
    workers = workers if rows % workers == 0 else 1
    positions = rows * shape.context
    chunks = min(workers * SCORES_HELD, positions * shape.vocabulary)
    fused = 2 if precision == "bf16" else _FLOAT
    floats = activation_floats(shape, dropout, recompute, positions / workers, fused if kernels else 0) + passing_floats(shape)
    parts = {
        "program": PROGRAM,
        "weights": _FLOAT * shape.parameters,
        "gradients": workers * _FLOAT * shape.parameters,
        "optimiser": int(copies * _FLOAT * shape.parameters),
        "checkpoint": int((1 + copies) * _FLOAT * shape.parameters),
        "activations": int(_FLOAT * positions * floats),
        "scores": 2 * _FLOAT * (chunks + (positions + workers * shape.vocabulary) * shape.width),
    }
    if kernels:
        parts["weights in products"] = workers * fused * shape.parameters
    elif precision != "float32":
        parts[f"weights in {precision}"] = 2 * shape.parameters
    return Memory(parts)


def score_memory(shape: Shape, rows: int, counted: int, copies: int = 1) -> Memory:
    """Peak of scoring ``rows`` sequences with ``copies`` of the model at hand, and of counting the n-grams of ``counted`` tokens:
    two layers' activations, three copies of the scores."""
    positions = rows * shape.context
    return Memory({
        "program": PROGRAM,
        "weights": copies * _FLOAT * shape.parameters,
        "activations": int(_FLOAT * positions * (2 * layer_floats(shape) + passing_floats(shape))),
        "scores": 3 * _FLOAT * positions * shape.vocabulary,
        "n-grams": _NGRAM_BYTES * counted,
    })


def prepare_memory(text: int) -> Memory:
    """Peak of preparing ``text`` bytes."""
    return Memory({"program": PROGRAM, "text": _TEXT_COPIES * text})


def count_work(shape: Shape, batch: int, budget: Budget, train_tokens: int, step_seconds: float | None = None) -> Work | None:
    """Steps, tokens, passes over ``train_tokens`` and FLOPs of a budget; None for a wall-time budget without ``step_seconds``."""
    per_step = batch * shape.context
    if budget.unit == "seconds":
        if step_seconds is None:
            return None
        steps = max(1, int(budget.amount / step_seconds))
    elif budget.unit == "steps":
        steps = int(budget.amount)
    elif budget.unit == "tokens":
        steps = math.ceil(budget.amount / per_step)
    else:
        steps = max(1, math.ceil(budget.amount * train_tokens / per_step))
    tokens = steps * per_step
    return Work(steps, tokens, tokens / max(train_tokens, 1), tokens * shape.train_flops)


def disk_bytes(
    shape: Shape, text: int, tokens: int, keep_checkpoints: int, quantize: str, copies: float = 2, stay: int = 0
) -> dict[str, int]:
    """Bytes that a run leaves, and needs on its way, on disk: text and tokens, checkpoints with weights and what the optimiser
    remembers (one more than is kept while the newest is written, three and that of the start for a run that diverges, and those
    that ``stay`` with the model), the model, and the package in float32, int8 or int4."""
    parameters = shape.parameters
    return {
        "corpus": text // 3,  # zstd on text, about
        "dataset": 2 * tokens,
        "checkpoints": int((keep_checkpoints + 5 + stay) * (1 + copies) * _FLOAT * parameters),
        "model": _FLOAT * parameters,
        "package": _package(shape, quantize),
    }


def _package(shape: Shape, quantize: str) -> int:
    """Bytes of its weights. Of 32 columns in four bits there are 20 bytes, with their scale and least value."""
    if quantize == "none":
        return _FLOAT * shape.parameters
    outer = shape.vocabulary * shape.width * (1 if shape.tie_embeddings else 2)
    layers = shape.parameters - outer
    return outer + (layers * 20 // 32 if quantize == "int4" else layers) + shape.width * _FLOAT


def cure_for_memory(spec: ProjectSpec, limit: int, fits: Callable[[Shape, int], bool]) -> str:
    """The mildest change of treadle.yaml after which all stages fit into ``limit`` bytes: smaller parts of a batch (which changes
    no result), then a smaller depth, then a shorter context. ``fits`` says so of a shape and the sequences computed at once."""
    resolved = derive(spec)
    shape, batch = resolved.language, resolved.batch
    assert spec.model.trunk.transformer is not None
    if fits(shape, 1):
        parts = next(n for n in divisors(batch) if n > spec.train.parts and fits(shape, batch // n))
        return f"set 'train.accumulate: {parts}': the same steps, each computed in smaller parts"
    for depth in range(spec.model.trunk.transformer.depth - 1, 0, -1):
        smaller = _with_depth(spec, depth)
        if smaller and fits(smaller[0], 1):
            also = f" and 'train.accumulate: {smaller[1]}'" if smaller[1] > 1 else ""
            return f"set 'model.trunk.transformer.depth: {depth}' or less{also}"
    context = shape.context // 2
    while context >= 8:
        if fits(replace(shape, context=context), 1):
            return f"set 'context: {context}' and 'train.accumulate: {batch}'"
        context //= 2
    return f"free some memory, raise 'plan.memory' above {format_size(limit)}, or use a larger machine"


def divisors(number: int) -> list[int]:
    """Ascending."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _with_depth(spec: ProjectSpec, depth: int) -> tuple[Shape, int] | None:
    """The shape and batch that follow from another depth, or None where the other given values do not allow it."""
    assert spec.model.trunk.transformer is not None
    transformer = spec.model.trunk.transformer.model_copy(update={"depth": depth})
    trunk = spec.model.trunk.model_copy(update={"transformer": transformer})
    changed = spec.model_copy(update={"model": spec.model.model_copy(update={"trunk": trunk})})
    try:
        resolved = derive(changed)
    except ValueError:
        return None
    return resolved.language, resolved.batch
