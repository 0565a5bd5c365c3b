"""What a training run is made of: fresh weights and a dataset, or a live version, new answers and old data that is replayed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from treadle.core.errors import UserError
from treadle.core.layout import Layout
from treadle.core.progress import say
from treadle.core.project import Project
from treadle.data.loader import Chosen, Examples, Mixed, Windows, permutation
from treadle.data.masking import Masked, Masker
from treadle.data.packing import Packed
from treadle.data.rows import Documents
from treadle.data.schema import FILE as FIELDS_FILE
from treadle.data.schema import Schema
from treadle.data.shards import Shard
from treadle.data.table import Table
from treadle.data.tokenizer import load_tokenizer
from treadle.model.memory import TextModel
from treadle.model.model import LanguageModel, make_model
from treadle.model.network import load_network, make_network
from treadle.model.start import take_over
from treadle.model.text import load_text_model
from treadle.spec.derive import Derived, Reasons
from treadle.spec.optimizers import Optimizer
from treadle.spec.train import Train
from treadle.spec.units import Budget
from treadle.store.artifacts import Artifact
from treadle.store.start import open_start
from treadle.train.going_on import Base, open_base

FEEDBACK_RATE = 1 / 40
"""Peak rate of a round of improvement whose rate is not given, as a share of the first training's: a finished model unlearns fast
at the rate that it once began with (docs/experiments.md)."""
_FEW = 256
"""Records of the train part that are measured beside fewer of the validation part: the mean of a handful says little."""
FEEDBACK_PASSES = 8
"""Times that each feedback answer is seen in a round of improvement whose budget is not given."""


@dataclass(frozen=True)
class Round:
    """What one training run is made of: a first training, or a round of improvement."""

    parents: tuple[str, ...]
    make: Callable[[], TextModel]
    """The model that is trained on from here."""
    batches: Examples
    held_out: Examples
    objective: str
    settings: Train
    budget: Budget
    learning_rate: float
    per_epoch: int
    """Units in one pass over the data."""
    held_out_units: int
    """Units in one pass over the validation part."""
    reasons: tuple[Derived, ...]
    """What was given or chosen, and why."""
    sample: Chosen | None = None
    """Examples that are trained on, as they are without random changes: about as many as are validated on, and measured alike. None
    in a round of improvement, whose validation part is of old data alone."""
    base: Base | None = None
    """What ``train.continue_from`` names."""

    @cached_property
    def model(self) -> TextModel:
        """Made when it is first asked for: a run that finds its model in the store never does."""
        return self.make()

    @property
    def language(self) -> bool:
        """Whether it is a ``LanguageModel``."""
        return self.objective.startswith("next_token")

    @property
    def may_go_on(self) -> bool:
        """Whether a later training may go on from this one: not from a round of improvement."""
        return self.sample is not None

    def watched(self, batch: int) -> int:
        """Examples that are validated on: all records, of tokens as many whole batches as the settings say."""
        return watched_rows(self.held_out, self.held_out_units, self.settings, batch)


def watched_rows(held_out: Examples, units: int, settings: Train, batch: int) -> int:
    """Of a validation part of so many ``units``, tokens or records."""
    if not held_out.context:
        return units
    return batch * max(1, min(settings.validate_tokens, units) // (batch * held_out.context))


def first_round(project: Project, dataset: Artifact) -> Round:
    """Fresh weights on the dataset's train part."""
    spec, resolved = project.spec, project.resolved
    settings = spec.train.model_copy(update={"accumulate": spec.train.parts})
    base = _base(project, dataset)
    parents = (dataset.id, base.model.id) if base else (dataset.id,)
    if dataset.counts.get("kind") == "records":
        schema = Schema.load(dataset.path)
        table, held_out = (open_table(dataset, schema, part, spec.seed) for part in ("train", "validation"))
        known = np.sort(permutation(spec.seed, 0, table.records, 2)[: max(held_out.records, _FEW)])
        plain = Table.open(dataset.path, "train", list(schema.inputs), list(schema.targets), shuffle=False)
        return Round(
            parents, partial(_network, project, schema), table, held_out, "answers", settings, resolved.budget,
            resolved.learning_rate, table.records, held_out.records, resolved.reasons, Chosen(plain, known), base,
        )
    name, head = _names(project)
    context = spec.model.text.context
    cut = _rows_of(spec.model.is_language)
    windows = cut(Shard(dataset.path, "train"), context, spec.seed, name, head)
    watched = cut(Shard(dataset.path, "validation"), context, 0, name, head)
    seen: tuple[Examples, Examples] = (windows, watched)
    as_it_is: Examples = windows
    if spec.model.masks:
        assert isinstance(windows, Windows)
        assert isinstance(watched, Windows)
        tokenizer, hidden = load_tokenizer(dataset.path / "tokenizer.json"), spec.model.heads[head].settings
        seen = (Masked(windows, Masker(tokenizer, hidden, spec.seed)), Masked(watched, Masker(tokenizer, hidden, 0)))
        as_it_is = Masked(windows, Masker(tokenizer, hidden, 0))
    rows = min(watched_rows(watched, watched.tokens_per_epoch, spec.train, resolved.batch), windows.windows)
    objective = "next_token" if spec.model.is_language else "answers"
    return Round(
        parents, partial(_text_model, project, dataset), *seen, objective, settings, resolved.budget, resolved.learning_rate,
        windows.tokens_per_epoch, watched.tokens_per_epoch, resolved.reasons, Chosen(as_it_is, np.arange(rows, dtype=np.int64)),
        base,
    )


def _rows_of(language: bool) -> type[Packed] | type[Windows]:
    """How running text becomes rows: a language model keeps documents apart; what a recurrent net has read, it carries on."""
    return Packed if language else Windows


def _base(project: Project, dataset: Artifact) -> Base | None:
    """What ``train.continue_from`` names. Raises ``UserError`` where ``dataset`` means other things by the same numbers."""
    base = open_base(project)
    if base is None:
        return None
    file = described(dataset)
    if (base.model.path / file).read_bytes() != (dataset.path / file).read_bytes():
        what = "words or characters" if file == "tokenizer.json" else "categories or scales"
        cure = "change 'data:' back, or begin with model.start_from, which brings its words along"
        raise UserError(f"train.continue_from: {base.model.id} has learned other {what} than this data gives", cure=cure)
    return base


def _records_improvement(project: Project, base: Artifact, dataset: Artifact, feedback: Artifact) -> Round:
    """The same for records: right answers mixed with the old records, whose statistics stay as they were."""
    spec = project.spec
    schema = Schema.load(base.path)
    answers = open_table(feedback, schema, "train", spec.seed)
    old, watched = open_table(dataset, schema, "train", spec.seed + 1), open_table(dataset, schema, "validation", spec.seed)
    settings = _round_settings(project).model_copy(update={"patience": None})
    budget, rate, reasons = _pace(project, settings.optimizer, answers.records)
    return Round(
        (base.id, dataset.id, feedback.id), partial(load_network, base.path), Mixed(old, answers, 1 - spec.improve.replay), watched,
        "answers", settings, budget, rate, answers.records, watched.records, reasons,
    )


def _round_settings(project: Project) -> Train:
    """A round of improvement takes AdamW unless another optimiser is given: it is for steps that leave most as it is."""
    train = project.spec.train
    optimizer = train.optimizer if "optimizer" in train.model_fields_set else Train().optimizer
    return train.model_copy(update={"warmup": 0.1, "accumulate": 1, "optimizer": optimizer})


def _pace(project: Project, optimizer: Optimizer, answers: int) -> tuple[Budget, float, tuple[Derived, ...]]:
    """Length and peak rate of a round over so many ``answers``, and the reasons for all that it uses."""
    improve, resolved = project.spec.improve, project.resolved
    first = resolved.learning_rate * optimizer.rate / project.spec.train.optimizer.rate
    steps = max(8, math.ceil(FEEDBACK_PASSES * answers / (resolved.batch * (1 - improve.replay))))
    reasons = Reasons(row for row in resolved.reasons if row.key not in ("optimizer", "learning_rate", "budget"))
    if optimizer != project.spec.train.optimizer:
        reasons.append(Derived("optimizer", optimizer.kind, "its small steps leave most as it is"))
    why = f"{FEEDBACK_RATE:g} of a first training's {first:g}: a finished model unlearns fast"
    rate = reasons.pick("learning_rate", improve.learning_rate, first * FEEDBACK_RATE, why)
    why = f"{FEEDBACK_PASSES} passes over {answers} answers, and their replay"
    budget = reasons.pick("budget", improve.budget, Budget(steps, "steps"), why)
    why = "share of each batch that is old training data, so that old skills stay"
    reasons.append(Derived("replay", f"{improve.replay:.0%}", why))
    return budget, rate, tuple(reasons)


def _network(project: Project, schema: Schema) -> TextModel:
    """Of records, with fresh weights, or those of ``model.start_from``."""
    spec = project.spec
    model = make_network(spec.model, schema.layouts, spec.seed, project.folder)
    if start := open_start(project):
        count = len(take_over(model, start.folder))
        say(f"starting from the {count} token and trunk weights of {spec.model.start_from}")
    return model


def _text_model(project: Project, dataset: Artifact) -> TextModel:
    """Of running text, with fresh weights: in a public layout where there is one, else a network."""
    model, seed = project.spec.model, project.spec.seed
    name, head = _names(project)
    if model.is_language:
        trunk = model.trunk.transformer
        assert trunk is not None
        return make_model(project.resolved.language, seed, trunk.dropout, name, head)
    vocabulary = int(dataset.counts["vocabulary"])
    layouts = {
        "inputs": {name: Layout("text", vocabulary=vocabulary, length=model.text.context)},
        "heads": {head: Layout(model.heads[head].kind, vocabulary=vocabulary)},
    }
    return make_network(model, layouts, seed)


def open_table(dataset: Artifact, schema: Schema, part: str, seed: int) -> Table:
    """A part of a dataset of records as examples; those of the train part are changed at random as their fields ask."""
    training = part == "train"
    changes, moves = (schema.changes(seed), schema.moves(seed)) if training else ({}, {})
    return Table.open(dataset.path, part, list(schema.inputs), list(schema.targets), seed, changes, training, moves)


def improvement_round(project: Project, base: Artifact, dataset: Artifact, feedback: Artifact) -> Round:
    """On from ``base``: each batch holds new answers and, as ``improve.replay`` says, windows of the old data."""
    spec = project.spec
    if feedback.counts.get("kind") == "records":
        return _records_improvement(project, base, dataset, feedback)
    name, head = _names(project)
    model = load_text_model(base.path)
    cut = _rows_of(isinstance(model, LanguageModel))
    watched = cut(Shard(dataset.path, "validation"), model.context, 0, name, head)
    answers = Documents(Shard(feedback.path, "train"), model.context, spec.seed, name, head)
    old = cut(Shard(dataset.path, "train"), model.context, spec.seed + 1, name, head)
    settings = _round_settings(project)
    budget, rate, reasons = _pace(project, settings.optimizer, answers.documents)
    objective = "next_token_per_row" if isinstance(model, LanguageModel) else "answers"
    return Round(
        (base.id, dataset.id, feedback.id), lambda: model, Mixed(old, answers, 1 - spec.improve.replay), watched, objective,
        settings, budget, rate, answers.documents * model.context, watched.tokens_per_epoch, reasons,
    )


def _names(project: Project) -> tuple[str, str]:
    return next(iter(project.spec.model.inputs)), next(iter(project.spec.model.heads))


def described(dataset: Artifact) -> str:
    """The file that says what a model's numbers mean."""
    return FIELDS_FILE if dataset.counts.get("kind") == "records" else "tokenizer.json"
