"""Everything that follows from ``depth``: each value with the reason for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from treadle.spec.figures import figures_of
from treadle.spec.model import Model
from treadle.spec.project import ProjectSpec
from treadle.spec.shape import Shape
from treadle.spec.train import Train
from treadle.spec.trunks import Transformer
from treadle.spec.units import Budget, format_count

TOKENS_PER_PARAMETER = 20

T = TypeVar("T")
Findings = list[tuple[tuple[str, ...], str]]


@dataclass(frozen=True)
class Derived:
    """A value that the file did not give, or gave, and why it is what it is."""

    key: str
    value: object
    reason: str
    curve: tuple[tuple[float, float], ...] = ()
    """What was measured to choose it: (a value that was tried, what came of it)."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for people: the value as text."""
        shown = {"key": self.key, "value": str(self.value), "reason": self.reason}
        return shown | ({"curve": [list(point) for point in self.curve]} if self.curve else {})


@dataclass(frozen=True)
class Resolved:
    """What the run will use: the shape, the training settings, and the reasons."""

    shape: Shape | None
    """Of a language model; the sizes of others follow from their data too."""
    learning_rate: float
    batch: int
    budget: Budget
    reasons: tuple[Derived, ...]
    threads: int | None = None
    """As many as were measured to be the best; None: they were not measured."""

    @property
    def language(self) -> Shape:
        """The shape of what is known to be a language model."""
        assert self.shape is not None
        return self.shape

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.language.context


class Contradiction(ValueError):
    """Given values that cannot all hold; ``findings`` are (location of a key in the file, what is wrong)."""

    def __init__(self, findings: list[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(message for _, message in findings))
        self.findings = findings


class Reasons(list[Derived]):
    """What was given or chosen, and why."""

    def pick(self, key: str, given: T | None, value: T, reason: str) -> T:
        chosen, why = (value, reason) if given is None else (given, "given")
        self.append(Derived(key, chosen, why))
        return chosen


# Trunk -> peak learning rate, records a step, epochs: starting points that train well at small sizes.
_STARTS = {
    "mlp": (1e-3, 128, 20), "conv": (2e-3, 64, 20), "recurrent": (2e-3, 32, 10), "transformer": (1e-3, 32, 10),
    "pretrained": (5e-5, 32, 4),
}


def derive(spec: ProjectSpec) -> Resolved:
    """Fill in what ``spec`` leaves open. Raises ``Contradiction`` where given values cannot all hold."""
    resolved, found = _language(spec) if spec.model.is_language else _general(spec)
    found += spec.model.misfits() + _gate(spec) + _split(spec) + _folds(spec)
    if spec.train.layer_decay < 1 and not _has_layers(spec.model):
        message = "is for a trunk that brings its weights in layers: pretrained, or a transformer with start_from"
        found.append((("train", "layer_decay"), message))
    if spec.train.recompute and not spec.model.is_language:
        found.append((("train", "recompute"), "is for language models: leave it out"))
    if spec.train.average and spec.train.optimizer.schedule_free:
        found.append((("train", "average"), "schedule_free keeps an average of its own: leave one of the two out"))
    if spec.train.schedule.plateau and not spec.train.validate_every:
        found.append((("train", "schedule"), "plateau goes by validation: give train.validate_every"))
    if spec.train.continue_from and spec.evaluate.folds:
        message = "its model has learned from the records that the folds test on: leave evaluate.folds out"
        found.append((("train", "continue_from"), message))
    found += _weights(spec)
    if spec.serve.engine == "vllm" and spec.model.predicts_text and not spec.model.is_language:
        found.append((("serve", "engine"), "vLLM opens language models with the trunk transformer alone: leave it out"))
    if resolved.batch % spec.train.parts:
        message = f"batch {resolved.batch} is not a multiple of accumulate {spec.train.accumulate}"
        found.append((("train", "batch"), message))
    if found:
        raise Contradiction(found)
    return resolved


def _weights(spec: ProjectSpec) -> Findings:
    """Kinds of weights that the model cannot have, or its engine cannot open."""
    kind, where = spec.compress.quantize, ("compress", "quantize")
    if kind == "int4" and not spec.model.is_language:
        return [(where, "int4 is for language models with the trunk transformer: say int8, or leave it out")]
    if kind in ("int8", "int4") and spec.serve.engine == "vllm" and spec.model.is_language:
        return [(where, f"vLLM, which serve.engine names, cannot open {kind} weights: leave it out")]
    return []


def _has_layers(model: Model) -> bool:
    """Whether the trunk has layers whose weights were trained before."""
    return model.trunk.pretrained is not None or (model.trunk.transformer is not None and model.start_from is not None)


def _gate(spec: ProjectSpec) -> Findings:
    """Bounds on figures that no head has, or that more than one has."""
    found: Findings = []
    for key in spec.evaluate.gate:
        head, _, figure = key.rpartition(".")
        has = [name for name, given in spec.model.heads.items() if figure in figures_of(given) and head in ("", name)]
        if len(has) != 1:
            known = sorted({figure for given in spec.model.heads.values() for figure in figures_of(given)})
            message = f"no head has the figure {key!r}; known: {', '.join(known)}"
            if has:
                message = f"{figure!r} is a figure of {' and of '.join(has)}: write {has[0]}.{figure}"
            found.append((("evaluate", "gate", key), message))
    return found


def _split(spec: ProjectSpec) -> Findings:
    """A split by time of what has no times."""
    if spec.data.split.by != "last":
        return []
    each = all(getattr(getattr(source, "history", None), "per", "") == "event" for source in spec.data.sources)
    if each or all(head.kind == "next_item" for head in spec.model.heads.values()):
        return []
    message = "'last' splits histories: it needs the head next_item, or sources with 'history: {per: event}'"
    return [(("data", "split", "by"), message)]


def _folds(spec: ProjectSpec) -> Findings:
    """Cross-validation of what has no records to deal out, or by a time that no record holds."""
    evaluate, model = spec.evaluate, spec.model
    found: Findings = []
    if evaluate.folds and model.predicts_text:
        found.append((("evaluate", "folds"), "folds are made of records with answers, not of running text"))
    if evaluate.folds and spec.data.split.by == "last":
        found.append((("evaluate", "folds"), "histories that are split by their last events have no folds"))
    times = [c for name, given in model.inputs.items() if given.kind in ("date", "number") for c in given.columns(name)]
    if evaluate.time and not evaluate.folds:
        found.append((("evaluate", "time"), "orders folds, and evaluate.folds asks for none"))
    elif evaluate.time and evaluate.time not in times:
        found.append((("evaluate", "time"), f"{evaluate.time!r} is the field of no input of kind date or number"))
    return found


def transformer_shape(
    trunk: Transformer, vocabulary: int, context: int, pick: Callable[[str, int | None, int, str], int] | None = None
) -> Shape:
    """The sizes that follow from ``trunk.depth`` where they are not given; ``pick`` hears each with its reason."""
    pick = pick or Reasons().pick
    width = pick("width", trunk.width, 64 * trunk.depth, f"64 x depth {trunk.depth}")
    heads = pick("heads", trunk.heads, _heads(width), "the divisor of the width nearest to one head per 64 features")
    third = max(d for d in range(1, heads + 1) if heads % d == 0 and d <= heads // 3 + 1)
    kv_heads = pick("kv_heads", trunk.kv_heads, third, "a divisor of heads near a third: a smaller cache")
    hidden = pick("hidden", trunk.hidden, -(-8 * width // 96) * 32, "8/3 of the width, a multiple of 32")
    return Shape(
        vocabulary=vocabulary, context=context, depth=trunk.depth, width=width, heads=heads, kv_heads=kv_heads,
        head_dim=width // heads, hidden=hidden, qk_norm=trunk.qk_norm, tie_embeddings=trunk.tie_embeddings,
        rope_theta=trunk.rope_theta, norm_eps=trunk.norm_eps,
    )


def _language(spec: ProjectSpec) -> tuple[Resolved, Findings]:
    trunk, text, train = spec.model.trunk.transformer, spec.model.text, spec.train
    assert trunk is not None
    reasons = Reasons()
    shape = transformer_shape(trunk, text.tokenizer.size, text.context, reasons.pick)
    given = train.optimizer.kind if "optimizer" in train.model_fields_set else None
    reasons.pick("optimizer", given, train.optimizer.kind, "the fewest tokens to a loss, of those measured")
    rate = 0.006 * (256 / shape.width) ** 0.5
    rate = _rate(rate, "0.006 at width 256, falling with its root", train, reasons)
    tokens = 512 * 2 ** min(8, (trunk.depth + 1) // 2)
    batch = _batch(max(1, tokens // shape.context), f"{format_count(tokens)} tokens a step at this depth", train, reasons)
    horizon = Budget(TOKENS_PER_PARAMETER * shape.parameters, "tokens")
    why = f"{TOKENS_PER_PARAMETER} tokens per parameter (Hoffmann et al. 2022)"
    budget = reasons.pick("budget", train.budget, horizon, why)
    found = _contradictions(shape)
    if trunk.causal is False:
        found.append((("model", "trunk", "transformer", "causal"), "predicting the next token looks back only"))
    return Resolved(shape, rate, batch, budget, tuple(reasons)), found


def _general(spec: ProjectSpec) -> tuple[Resolved, Findings]:
    kind, train, reasons = spec.model.trunk.kind, spec.train, Reasons()
    rate, batch, epochs = _STARTS[kind]
    found: Findings = []
    if trunk := spec.model.trunk.transformer:
        shape = transformer_shape(trunk, 0, 0, reasons.pick)
        rate = rate * (256 / shape.width) ** 0.5
        found = _contradictions(shape)
    rate = _rate(rate, f"a good start for {kind}", train, reasons)
    batch = _batch(batch, f"a good start for {kind}", train, reasons)
    budget = reasons.pick("budget", train.budget, Budget(epochs, "epochs"), f"a good start for {kind}")
    if budget.unit == "tokens" and not spec.model.predicts_text:
        found.append((("train", "budget"), "records have no tokens: give steps, epochs or a time"))
    return Resolved(None, rate, batch, budget, tuple(reasons)), found


def _rate(adamw: float, why: str, train: Train, reasons: Reasons) -> float:
    """The peak rate that is given, or that of the optimiser where ``adamw`` is a good one for AdamW."""
    share = train.optimizer.rate
    why += f", {share:g} times as much for {train.optimizer.kind}" if share != 1 else ""
    return _open("learning_rate", train.learning_rate, round(adamw * share, 6), why, reasons)


def _batch(rows: int, why: str, train: Train, reasons: Reasons) -> int:
    """The size that is given, or ``rows`` made to fall into equal parts."""
    return _open("batch", train.batch, -(-rows // train.parts) * train.parts, why, reasons)


def _open(key: str, given: T | Literal["auto"] | None, value: T, why: str, reasons: Reasons) -> T:
    """What is given, or ``value``: to the end, or until it is measured."""
    if given == "auto":
        given, why = None, f"until it is measured, before the run: {why}"
    return reasons.pick(key, given, value, why)


def _heads(width: int) -> int:
    """The largest number of heads, at most one per 64 features, that gives each an even number of them (rotary pairs)."""
    return max((h for h in range(1, max(1, width // 64) + 1) if width % h == 0 and (width // h) % 2 == 0), default=1)


def _contradictions(shape: Shape) -> Findings:
    at = ("model", "trunk", "transformer")
    found: Findings = []
    if shape.width % shape.heads or shape.head_dim % 2:
        found.append(((*at, "width"), f"width {shape.width} is not an even multiple of heads {shape.heads}"))
    if shape.heads % shape.kv_heads:
        found.append(((*at, "kv_heads"), f"heads {shape.heads} is not a multiple of kv_heads {shape.kv_heads}"))
    return found
